//! A network that can be broken.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Stands between clients and a server; cuts connections, or swallows what goes over them, when told to.
#[derive(Debug)]
pub struct BadLink {
    address: SocketAddr,
    cuts: watch::Sender<u64>,
    swallows: watch::Sender<bool>,
    connections: watch::Sender<u64>,
}

impl BadLink {
    /// Listens on a port of its own and passes everything on to `server`.
    ///
    /// # Errors
    ///
    /// If it cannot listen.
    pub async fn start(server: &str) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let link = Self {
            address: listener.local_addr()?,
            cuts: watch::Sender::new(0),
            swallows: watch::Sender::new(false),
            connections: watch::Sender::new(0),
        };
        let (mut cuts, swallows, connections) =
            (link.cuts.subscribe(), link.swallows.subscribe(), link.connections.clone());
        let server = server.to_owned();
        tokio::spawn(async move {
            loop {
                let client = tokio::select! {
                    accepted = listener.accept() => accepted,
                    // The link is gone.
                    Err(_) = cuts.changed() => return,
                };
                let Ok((client, _)) = client else { continue };
                connections.send_modify(|count| *count += 1);
                let (server, mut cut, swallows) = (server.clone(), cuts.clone(), swallows.clone());
                cut.mark_unchanged();
                tokio::spawn(async move {
                    tokio::select! {
                        _ = pass(client, &server, swallows) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Ok(link)
    }

    /// The host and port that clients connect to.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Cuts all connections there are.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// From now on nothing arrives, and nobody is told; or all is well again, for connections of then and now.
    pub fn swallow(&self, swallow: bool) {
        self.swallows.send_replace(swallow);
    }

    /// How many connections were made.
    pub fn connections(&self) -> u64 {
        *self.connections.borrow()
    }
}

async fn pass(client: TcpStream, server: &str, swallows: watch::Receiver<bool>) -> std::io::Result<()> {
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        done = one_way(from_client, to_server, swallows.clone()) => done,
        done = one_way(from_server, to_client, swallows) => done,
    }
}

async fn one_way(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut swallows: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let size = from.read(&mut bytes).await?;
        if size == 0 {
            return Ok(());
        }
        if swallows.wait_for(|swallows| !swallows).await.is_err() {
            return Ok(());
        }
        to.write_all(&bytes[..size]).await?;
    }
}
