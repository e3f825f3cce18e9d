//! Brokers for tests: where they are, and private ones that may be killed.
//!
//! A broker is looked for in this order: the variable of the environment that names it, its usual port on this machine,
//! its program, which is then started for this test process alone. Without one a test is skipped, and says so; with
//! `CI` set it fails.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream, ToSocketAddrs as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How long a port may take to answer.
const PROBE: Duration = Duration::from_secs(2);
/// How long a server may take to start: RabbitMQ takes ten seconds on a machine that has nothing else to do.
const STARTUP: Duration = Duration::from_secs(120);
/// The pause between two looks at it.
const PAUSE: Duration = Duration::from_millis(20);

/// A kind of broker that tests use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokerServer {
    /// Redis.
    Redis,
    /// RabbitMQ.
    Rabbitmq,
}

impl BrokerServer {
    /// The variable of the environment with its address.
    pub fn variable(self) -> &'static str {
        match self {
            Self::Redis => "AIRFLOW_TEST_REDIS",
            Self::Rabbitmq => "AIRFLOW_TEST_RABBITMQ",
        }
    }

    fn url(self, host: &str) -> String {
        match self {
            Self::Redis => format!("redis://{host}/0"),
            Self::Rabbitmq => format!("amqp://guest:guest@{host}/%2f"),
        }
    }

    fn usual(self) -> &'static str {
        match self {
            Self::Redis => "127.0.0.1:6379",
            Self::Rabbitmq => "127.0.0.1:5672",
        }
    }

    /// Its address; `None` if there is none.
    ///
    /// # Panics
    ///
    /// With `CI` set, if there is none.
    pub fn address(self) -> Option<&'static str> {
        static REDIS: OnceLock<Option<String>> = OnceLock::new();
        static RABBITMQ: OnceLock<Option<String>> = OnceLock::new();
        let known = match self {
            Self::Redis => &REDIS,
            Self::Rabbitmq => &RABBITMQ,
        };
        known.get_or_init(|| self.find()).as_deref()
    }

    fn find(self) -> Option<String> {
        static STARTED: Mutex<Vec<PrivateServer>> = Mutex::new(Vec::new());
        let named = std::env::var(self.variable()).ok();
        match named.as_deref() {
            Some("start") => {}
            Some(_) => return named,
            None if answers(self.usual()) => return Some(self.url(self.usual())),
            None => {}
        }
        let Some(server) = PrivateServer::start(self, &[]) else {
            self.missing();
            return None;
        };
        let url = server.url();
        STARTED.lock().unwrap_or_else(PoisonError::into_inner).push(server);
        Some(url)
    }

    /// Says that a test does not run.
    ///
    /// # Panics
    ///
    /// With `CI` set.
    #[expect(clippy::print_stderr, reason = "whoever runs the tests is to see that some did not run")]
    pub fn missing(self) {
        let missing = format!("there is no {self:?}: install it, or set {} to its address", self.variable());
        assert!(std::env::var_os("CI").is_none(), "{missing}");
        eprintln!("\n*** SKIPPED: {missing} ***\n");
    }

    /// The program that runs it.
    fn program(self) -> Option<PathBuf> {
        match self {
            Self::Redis => {
                let path = std::env::var_os("PATH").unwrap_or_default();
                let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
                folders.extend(["/usr/bin", "/usr/local/bin"].map(PathBuf::from));
                folders.into_iter().map(|folder| folder.join("redis-server")).find(|file| file.is_file())
            }
            // Not the wrapper on the path, which changes to another user.
            Self::Rabbitmq => {
                let folders = std::fs::read_dir("/usr/lib/rabbitmq/lib").ok()?;
                let script = |folder: std::fs::DirEntry| folder.path().join("sbin/rabbitmq-server");
                folders.flatten().map(script).find(|file| file.is_file())
            }
        }
    }
}

/// Whether somebody listens there.
fn answers(address: &str) -> bool {
    let Ok(mut addresses) = address.to_socket_addrs() else { return false };
    addresses.any(|address| TcpStream::connect_timeout(&address, PROBE).is_ok())
}

/// A port that nobody uses, and that no outgoing connection is given by chance: a server that is restarted needs it
/// again.
///
/// # Panics
///
/// If there is none.
pub fn free_port() -> u16 {
    let mut ports = (0..1000).map(|_| 15_000 + random() % 17_000);
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a free port")
}

fn random() -> u16 {
    let bytes = uuid::Uuid::new_v4().into_bytes();
    u16::from_be_bytes([bytes[0], bytes[1]])
}

/// A server of a test's own. It is killed with this.
#[derive(Debug)]
pub struct PrivateServer {
    kind: BrokerServer,
    folder: PathBuf,
    port: u16,
    options: Vec<String>,
    child: Option<Child>,
}

impl PrivateServer {
    /// Starts one; `None` if its program is not installed. For Redis `options` are arguments, for RabbitMQ lines of its
    /// configuration.
    ///
    /// # Panics
    ///
    /// If it is installed and does not start.
    pub fn start(kind: BrokerServer, options: &[&str]) -> Option<Self> {
        kind.program()?;
        let folder = std::env::temp_dir().join(format!("airflow-broker-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&folder).expect("a folder for temporary files");
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let mut server = Self { kind, folder, port: free_port(), options, child: None };
        server.run();
        Some(server)
    }

    /// Its host and port.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its address.
    pub fn url(&self) -> String {
        self.kind.url(&self.host())
    }

    /// Kills it, as a failing machine does.
    ///
    /// # Panics
    ///
    /// If it cannot be killed.
    pub fn kill(&mut self) {
        let Some(mut shell) = self.child.take() else { return };
        drop(shell.stdin.take());
        shell.wait().expect("it was ours");
    }

    /// Asks it to end, as a service manager does, and waits until it has.
    ///
    /// # Panics
    ///
    /// If it cannot be asked.
    pub fn shut_down(&mut self) {
        match self.kind {
            BrokerServer::Redis => {
                let mut client = TcpStream::connect(self.host()).expect("it runs");
                client.write_all(b"SHUTDOWN\r\n").expect("it runs");
            }
            BrokerServer::Rabbitmq => self.ctl(&["stop"]),
        }
        let Some(mut shell) = self.child.take() else { return };
        // What is ours is killed when its input closes: not before it has ended by itself.
        let input = shell.stdin.take();
        shell.wait().expect("it was ours");
        drop(input);
    }

    /// Starts it again after [`kill`](Self::kill), with its data or without.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn restart(&mut self, keep: bool) {
        self.kill();
        if !keep {
            std::fs::remove_dir_all(&self.folder).ok();
            std::fs::create_dir_all(&self.folder).expect("the folder was ours");
        }
        self.run();
    }

    fn run(&mut self) {
        // A group of processes, of which all are killed when the input closes, also because we are dead; or when the
        // server ends by itself. What we start may be a script.
        const SCRIPT: &str = "(\"$@\" </dev/null; kill -KILL 0) & read -r _; kill -KILL 0";
        let program = self.kind.program().expect("it was there");
        let mut command = match self.kind {
            BrokerServer::Redis => self.redis(&program),
            BrokerServer::Rabbitmq => self.rabbitmq(&program),
        };
        let log = std::fs::File::create(self.folder.join("log")).expect("the folder is ours");
        let mut shell = Command::new("sh");
        shell.args(["-c", SCRIPT, "server"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            shell.env(name, value.unwrap_or_default());
        }
        command = shell;
        command.stdin(Stdio::piped()).stderr(log.try_clone().expect("a file")).stdout(log).process_group(0);
        let mut child = command.spawn().expect("the program can be run");
        let until = Instant::now() + STARTUP;
        while !answers(&self.host()) {
            let ended = child.try_wait().is_ok_and(|ended| ended.is_some());
            if Instant::now() > until || ended {
                drop(child.stdin.take());
                let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                panic!("{:?} does not start: {log}", self.kind);
            }
            std::thread::sleep(PAUSE);
        }
        self.child = Some(child);
    }

    fn redis(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        let port = self.port.to_string();
        // A file of settings comes first, options last, so that they win.
        let (files, options): (Vec<_>, Vec<_>) =
            self.options.iter().partition(|option| Path::new(option).extension() == Some("conf".as_ref()));
        command
            .args(files)
            .args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--dir"])
            .arg(&self.folder);
        command.args(options);
        command
    }

    fn rabbitmq(&self, program: &Path) -> Command {
        let settings = self.options.join("\n") + "\n";
        std::fs::write(self.folder.join("rabbitmq.conf"), settings).expect("the folder is ours");
        std::fs::write(self.folder.join("plugins"), "[].").expect("the folder is ours");
        self.erlang(program)
    }

    /// Runs `rabbitmqctl` on it.
    ///
    /// # Panics
    ///
    /// If it fails, or the server is no RabbitMQ.
    pub fn ctl(&self, arguments: &[&str]) {
        assert_eq!(self.kind, BrokerServer::Rabbitmq, "only RabbitMQ has it");
        let program = self.kind.program().expect("it was there").with_file_name("rabbitmqctl");
        let done = self.erlang(&program).args(arguments).output().expect("the program can be run");
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// A program of RabbitMQ, for this server.
    fn erlang(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        let inside = |name: &str| self.folder.join(name);
        command
            .env("HOME", &self.folder)
            .env("RABBITMQ_NODENAME", format!("test-{}@localhost", self.port))
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_DIST_PORT", free_port().to_string())
            .env("RABBITMQ_CONFIG_FILE", inside("rabbitmq.conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", inside("plugins"))
            .env("RABBITMQ_MNESIA_BASE", inside("data"))
            .env("RABBITMQ_LOG_BASE", inside("logs"))
            .env("RABBITMQ_PID_FILE", inside("pid"))
            .env("RABBITMQ_CONF_ENV_FILE", inside("none"));
        command
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        self.kill();
        std::fs::remove_dir_all(&self.folder).ok();
    }
}
