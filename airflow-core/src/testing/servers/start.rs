//! Starts a server for this test process alone, from the programs that are installed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take to start.
const STARTUP: Duration = Duration::from_secs(60);

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// A program on the path, or in one of the folders where distributions hide it.
pub(super) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        folders.extend(versions.flatten().map(|version| version.path().join("bin")));
    }
    folders.into_iter().map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// A port that nobody uses.
pub(super) fn free_port() -> Option<u16> {
    Some(std::net::TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port())
}

pub(super) fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.starts_with(b"0\n"))
}

/// A command, as another user if this is root and `user` is given.
pub(super) fn as_user(user: Option<&str>, program: &Path) -> Command {
    match user {
        Some(user) if is_root() => {
            let mut command = Command::new("runuser");
            command.args(["-u", user, "--"]).arg(program);
            command
        }
        _ => Command::new(program),
    }
}

pub(super) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

/// A folder that `user` may write, if this is root.
pub(super) fn folder(user: Option<&str>) -> Option<PathBuf> {
    let folder = std::env::temp_dir().join(format!("airflow-test-{}", uuid::Uuid::new_v4().simple()));
    std::fs::create_dir(&folder).ok()?;
    if let Some(user) = user.filter(|_| is_root()) {
        succeeds(Command::new("chown").arg(user).arg(&folder)).then_some(())?;
    }
    Some(folder)
}

/// Runs a server until this process ends: a shell waits for its input to close, then ends the server and takes its
/// folder away.
pub(super) fn guarded(command: &Command, folder: &Path, port: u16) -> Option<()> {
    const SCRIPT: &str = "folder=$1; shift; \"$@\" >>\"$folder/log\" 2>&1 </dev/null & server=$!; read -r _; \
                          kill $server; wait $server; rm -rf \"$folder\"";
    let mut shell = Command::new("sh");
    shell.args(["-c", SCRIPT, "server"]).arg(folder).arg(command.get_program()).args(command.get_args());
    let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
    // Kept open for as long as this process lives.
    std::mem::forget(child.stdin.take());
    let until = Instant::now() + STARTUP;
    while !super::answers(&format!("127.0.0.1:{port}")) {
        if Instant::now() > until || child.try_wait().is_ok_and(|ended| ended.is_some()) {
            return None;
        }
        std::thread::sleep(PAUSE);
    }
    Some(())
}

/// How a server is started, again and again.
#[derive(Debug)]
pub(super) struct Started {
    command: Command,
    folder: PathBuf,
    port: u16,
}

impl Started {
    /// Starts it, and waits until it answers.
    pub(super) fn start(&self) -> Option<()> {
        guarded(&self.command, &self.folder, self.port)
    }

    /// Gives it variables of its environment; only the server itself gets them.
    pub(super) fn put_in(&mut self, environment: &[(String, String)]) {
        let mut command = Command::new("env");
        command.args(environment.iter().map(|(name, value)| format!("{name}={value}")));
        command.arg(self.command.get_program()).args(self.command.get_args());
        if !environment.is_empty() {
            self.command = command;
        }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// The pid of the server that runs.
    fn pid(&self) -> Option<String> {
        let files = ["data/postmaster.pid", "pid"];
        let text = files.iter().find_map(|file| std::fs::read_to_string(self.folder.join(file)).ok())?;
        text.lines().next().map(str::to_owned)
    }

    /// Sends a signal to it, and waits until it is gone.
    pub(super) fn end(&self, signal: &str) -> Option<()> {
        let pid = self.pid()?;
        succeeds(Command::new("kill").args([signal, &pid])).then_some(())?;
        let until = Instant::now() + STARTUP;
        while super::answers(&format!("127.0.0.1:{}", self.port)) || runs(&pid) {
            if Instant::now() > until {
                return None;
            }
            std::thread::sleep(PAUSE);
        }
        Some(())
    }
}

/// Whether a process still runs. One that has ended and that nobody has asked for is a zombie.
fn runs(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// PostgreSQL, which refuses to run as root.
pub(super) fn postgres(settings: &[&str]) -> Option<Started> {
    let (initdb, server) = (program("initdb")?, program("postgres")?);
    let user = Some("postgres");
    let (folder, port) = (folder(user)?, free_port()?);
    let data = folder.join("data");
    succeeds(
        as_user(user, &initdb)
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "-D"])
            .arg(&data),
    )
    .then_some(())?;
    let mut command = as_user(user, &server);
    command.arg("-D").arg(&data).args(["-p", &port.to_string(), "-h", "127.0.0.1", "-k"]).arg(&folder);
    command.args(["-c", "fsync=off", "-c", "max_connections=200"]).args(settings);
    Some(Started { command, folder, port })
}

/// MariaDB.
pub(super) fn mysql(settings: &[&str]) -> Option<Started> {
    let (install, server) = (program("mariadb-install-db")?, program("mariadbd")?);
    let (folder, port) = (folder(None)?, free_port()?);
    let data = folder.join("data");
    let user = if is_root() { "--user=root" } else { "--user=" };
    let mut setup = Command::new(install);
    setup.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db", user]);
    succeeds(setup.arg(format!("--datadir={}", data.display()))).then_some(())?;
    let mut command = Command::new(server);
    // What is committed outlives the server, if not the machine.
    command.args(["--no-defaults", user, "--bind-address=127.0.0.1", "--innodb-flush-log-at-trx-commit=2"]);
    command.arg(format!("--datadir={}", data.display())).arg(format!("--port={port}"));
    command.arg(format!("--socket={}", folder.join("socket").display()));
    command.arg(format!("--pid-file={}", folder.join("pid").display())).args(settings);
    Some(Started { command, folder, port })
}
