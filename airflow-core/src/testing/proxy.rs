//! A TCP proxy that cuts connections at chosen places, for tests of what happens then.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Where a connection is cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cut {
    /// When the client sends these bytes; they do not reach the server.
    Before(Vec<u8>),
    /// When the server answers to these bytes; the answer does not reach the client.
    After(Vec<u8>),
}

/// Stands between a client and a server.
#[derive(Debug, Clone)]
pub struct CuttingProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Where the next cuts are; each is made once.
    next: Mutex<Vec<Cut>>,
    cuts: AtomicU64,
    messages: AtomicU64,
    /// Whether all that is said is swallowed.
    silent: AtomicBool,
}

/// How many bytes are passed on at once.
const CHUNK: usize = 64 * 1024;

impl CuttingProxy {
    /// Listens on a port of its own and passes everything on to `server`.
    ///
    /// # Errors
    ///
    /// If it cannot listen.
    pub async fn start(server: &str) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let shared = Arc::new(Shared::default());
        let proxy = Self { address: listener.local_addr()?, shared: Arc::clone(&shared) };
        let server = server.to_owned();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (shared, server) = (Arc::clone(&shared), server.clone());
                tokio::spawn(async move { pass(client, &server, &shared).await.ok() });
            }
        });
        Ok(proxy)
    }

    /// The host and port that clients connect to.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Cuts the connection on which this comes next.
    pub fn cut(&self, cut: Cut) {
        self.shared.next.lock().unwrap_or_else(PoisonError::into_inner).push(cut);
    }

    /// Swallows all that either side says from now on, on all connections, old and new, or does so no more. Nobody is told,
    /// as when a firewall drops packets.
    pub fn swallow(&self, all: bool) {
        self.shared.silent.store(all, Ordering::SeqCst);
    }

    /// How many messages clients have sent, as far as they waited for an answer between.
    pub fn messages(&self) -> u64 {
        self.shared.messages.load(Ordering::SeqCst)
    }

    /// How many connections were cut.
    pub fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::SeqCst)
    }
}

impl Shared {
    /// Counts what a client said.
    fn heard(&self) {
        self.messages.fetch_add(1, Ordering::SeqCst);
    }

    /// The cut that these bytes of a client ask for; it is taken off the list.
    fn take(&self, sent: &[u8]) -> Option<Cut> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = |cut: &Cut| {
            let (Cut::Before(bytes) | Cut::After(bytes)) = cut;
            sent.windows(bytes.len().max(1)).any(|window| window == bytes.as_slice())
        };
        let at = next.iter().position(asked)?;
        self.cuts.fetch_add(1, Ordering::SeqCst);
        Some(next.remove(at))
    }
}

/// Passes on what both sides say, one message of the client at a time; returns when the connection ends or is cut.
async fn pass(mut client: TcpStream, server: &str, shared: &Shared) -> std::io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut sent, mut answer) = (vec![0; CHUNK], vec![0; CHUNK]);
    let (mut cut_next_answer, mut client_spoke_last) = (false, false);
    loop {
        tokio::select! {
            read = client.read(&mut sent) => {
                let size = read?;
                if size == 0 {
                    return Ok(());
                }
                if shared.silent.load(Ordering::SeqCst) {
                    continue;
                }
                if !client_spoke_last {
                    shared.heard();
                    client_spoke_last = true;
                }
                match shared.take(&sent[..size]) {
                    Some(Cut::Before(_)) => return Ok(()),
                    Some(Cut::After(_)) => cut_next_answer = true,
                    None => {}
                }
                server.write_all(&sent[..size]).await?;
            }
            read = server.read(&mut answer) => {
                let size = read?;
                if size == 0 || cut_next_answer {
                    return Ok(());
                }
                if shared.silent.load(Ordering::SeqCst) {
                    continue;
                }
                client_spoke_last = false;
                client.write_all(&answer[..size]).await?;
            }
        }
    }
}
