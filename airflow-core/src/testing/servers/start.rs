//! Starts a server for this test process alone, from the programs that are installed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take to start.
const STARTUP: Duration = Duration::from_secs(60);

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// A program on the path, or in one of the folders where distributions hide it.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        folders.extend(versions.flatten().map(|version| version.path().join("bin")));
    }
    folders.into_iter().map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// A port that nobody uses.
fn free_port() -> Option<u16> {
    Some(std::net::TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port())
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.starts_with(b"0\n"))
}

/// A command, as another user if this is root and `user` is given.
fn as_user(user: Option<&str>, program: &Path) -> Command {
    match user {
        Some(user) if is_root() => {
            let mut command = Command::new("runuser");
            command.args(["-u", user, "--"]).arg(program);
            command
        }
        _ => Command::new(program),
    }
}

fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

/// A folder that `user` may write, if this is root.
fn folder(user: Option<&str>) -> Option<PathBuf> {
    let folder = std::env::temp_dir().join(format!("airflow-test-{}", uuid::Uuid::new_v4().simple()));
    std::fs::create_dir(&folder).ok()?;
    if let Some(user) = user.filter(|_| is_root()) {
        succeeds(Command::new("chown").arg(user).arg(&folder)).then_some(())?;
    }
    Some(folder)
}

/// Runs a server until this process ends: a shell waits for its input to close, then ends the server and takes its
/// folder away.
fn guarded(command: &Command, folder: &Path, port: u16) -> Option<()> {
    const SCRIPT: &str = "folder=$1; shift; \"$@\" >\"$folder/log\" 2>&1 </dev/null & server=$!; read -r _; \
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

/// PostgreSQL, which refuses to run as root.
pub(super) fn postgres() -> Option<String> {
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
    command.args(["-c", "fsync=off", "-c", "max_connections=200"]);
    guarded(&command, &folder, port)?;
    Some(format!("postgres://postgres@127.0.0.1:{port}/postgres"))
}

/// MariaDB.
pub(super) fn mysql() -> Option<String> {
    let (install, server) = (program("mariadb-install-db")?, program("mariadbd")?);
    let (folder, port) = (folder(None)?, free_port()?);
    let data = folder.join("data");
    let user = if is_root() { "--user=root" } else { "--user=" };
    let mut setup = Command::new(install);
    setup.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db", user]);
    succeeds(setup.arg(format!("--datadir={}", data.display()))).then_some(())?;
    let mut command = Command::new(server);
    command.args(["--no-defaults", user, "--bind-address=127.0.0.1", "--innodb-flush-log-at-trx-commit=0"]);
    command.arg(format!("--datadir={}", data.display())).arg(format!("--port={port}"));
    command.arg(format!("--socket={}", folder.join("socket").display()));
    guarded(&command, &folder, port)?;
    Some(format!("mysql://root@127.0.0.1:{port}/mysql"))
}
