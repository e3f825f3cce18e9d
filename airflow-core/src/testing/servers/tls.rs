//! Servers that speak TLS only, with certificates of a private authority, made for this test process alone.
//!
//! Needs the programs of the server and `openssl`. The user `airflow` must show a certificate of the authority.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Server;
use super::start::{as_user, folder, free_port, guarded, is_root, program, succeeds};

/// A server with TLS, and the files that a client needs.
#[derive(Debug)]
pub struct TlsServer {
    /// Its port on this machine; its certificate is for the name `localhost`.
    pub port: u16,
    folder: PathBuf,
}

impl TlsServer {
    /// Starts one. Nothing, said on standard error, if a program is missing.
    ///
    /// # Panics
    ///
    /// With `CI=true`, if a program is missing.
    pub fn start(server: Server) -> Option<Self> {
        let started = match server {
            Server::Postgres => postgres(),
            Server::Mysql => mysql(),
        };
        if started.is_none() {
            let missing =
                format!("no {server:?} server with TLS can be started: are it and `openssl` installed?");
            assert!(std::env::var_os("CI").is_none(), "{missing}");
            super::warn(&missing);
        }
        started
    }

    /// A file: `ca.pem` of the authority, `other.pem` of another one, `client.pem` and `client.key`.
    pub fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

/// Makes an authority, another one, and certificates for the server and for the user `airflow`.
fn certificates(folder: &Path) -> Option<()> {
    let openssl = program("openssl")?;
    let run = |args: &[&str]| succeeds(Command::new(&openssl).current_dir(folder).args(args)).then_some(());
    std::fs::write(folder.join("cnf"), "[req]\ndistinguished_name = dn\n[dn]\n").ok()?;
    std::fs::write(folder.join("server.ext"), "subjectAltName = DNS:localhost\n").ok()?;
    std::fs::write(folder.join("client.ext"), "subjectAltName = DNS:airflow\n").ok()?;
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-config", "cnf"];
    for name in ["ca", "other"] {
        let (subject, to, out) = (format!("/CN={name}"), format!("{name}.key"), format!("{name}.pem"));
        let own = ["-addext", "basicConstraints = critical, CA:TRUE", "-days", "2", "-subj", &subject];
        run(&[&["req", "-x509"], &key[..], &own[..], &["-keyout", &to, "-out", &out]].concat())?;
    }
    for (name, subject) in [("server", "/CN=localhost"), ("client", "/CN=airflow")] {
        let file = |end: &str| format!("{name}.{end}");
        let (to, csr, out, ext) = (file("key"), file("csr"), file("pem"), file("ext"));
        run(&[&["req"], &key[..], &["-subj", subject, "-keyout", &to, "-out", &csr]].concat())?;
        let by = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"];
        run(&[&["x509", "-req", "-in", &csr], &by[..], &["-extfile", &ext, "-out", &out]].concat())?;
    }
    Some(())
}

fn postgres() -> Option<TlsServer> {
    const USERS: &str = "hostssl all airflow 127.0.0.1/32 cert\nhostssl all airflow ::1/128 cert\n";
    let (initdb, server) = (program("initdb")?, program("postgres")?);
    let user = Some("postgres");
    let (folder, port) = (folder(user)?, free_port()?);
    certificates(&folder)?;
    let key = folder.join("server.key");
    if is_root() {
        succeeds(Command::new("chown").arg("postgres").arg(&key)).then_some(())?;
    }
    succeeds(Command::new("chmod").arg("600").arg(&key)).then_some(())?;
    let data = folder.join("data");
    let mut setup = as_user(user, &initdb);
    setup.args(["-U", "airflow", "-A", "trust", "-E", "UTF8", "--no-locale", "-D"]).arg(&data);
    succeeds(&mut setup).then_some(())?;
    std::fs::write(data.join("pg_hba.conf"), USERS).ok()?;
    let mut command = as_user(user, &server);
    command.arg("-D").arg(&data).args(["-p", &port.to_string(), "-h", "localhost", "-k"]).arg(&folder);
    command.args(["-c", "fsync=off", "-c", "ssl=on"]);
    for (option, file) in
        [("ssl_ca_file", "ca.pem"), ("ssl_cert_file", "server.pem"), ("ssl_key_file", "server.key")]
    {
        command.args(["-c", &format!("{option}={}", folder.join(file).display())]);
    }
    guarded(&command, &folder, port)?;
    Some(TlsServer { port, folder })
}

fn mysql() -> Option<TlsServer> {
    // The server reads one statement in each line.
    const USERS: &str = "CREATE DATABASE work;\n\
        CREATE USER 'airflow'@'localhost' REQUIRE X509;\n\
        GRANT ALL ON work.* TO 'airflow'@'localhost';\n\
        CREATE USER 'airflow'@'%' REQUIRE X509;\n\
        GRANT ALL ON work.* TO 'airflow'@'%';\n";
    let (install, server) = (program("mariadb-install-db")?, program("mariadbd")?);
    let (folder, port) = (folder(None)?, free_port()?);
    certificates(&folder)?;
    std::fs::write(folder.join("users.sql"), USERS).ok()?;
    let data = folder.join("data");
    let user = if is_root() { "--user=root" } else { "--user=" };
    let mut setup = Command::new(install);
    setup.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db", user]);
    succeeds(setup.arg(format!("--datadir={}", data.display()))).then_some(())?;
    let mut command = Command::new(server);
    command.args(["--no-defaults", user, "--bind-address=127.0.0.1", "--innodb-flush-log-at-trx-commit=0"]);
    command.args(["--require-secure-transport=on", &format!("--port={port}")]);
    for (option, file) in [
        ("datadir", "data"),
        ("socket", "socket"),
        ("init-file", "users.sql"),
        ("ssl-ca", "ca.pem"),
        ("ssl-cert", "server.pem"),
        ("ssl-key", "server.key"),
    ] {
        command.arg(format!("--{option}={}", folder.join(file).display()));
    }
    guarded(&command, &folder, port)?;
    Some(TlsServer { port, folder })
}
