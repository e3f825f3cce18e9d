//! Encrypted connections to servers of a private authority, and what is said of those that do not come about.

use airflow_core::store::{MysqlOptions, PostgresOptions, StoreResult};
use airflow_core::testing::servers::{Server, TlsServer};

use super::kit::{Opened, run};

/// An address at this server: PostgreSQL and MySQL have other words for the same.
fn address(server: Server, tls: &TlsServer, host: &str, options: &[(&str, &str)]) -> String {
    let (head, words): (_, [&str; 4]) = match server {
        Server::Postgres => {
            let words = ["sslmode=verify-full", "sslrootcert", "sslcert", "sslkey"];
            (format!("postgres://airflow@{host}:{}/postgres", tls.port), words)
        }
        Server::Mysql => {
            let words = ["ssl-mode=VERIFY_IDENTITY", "ssl-ca", "ssl-cert", "ssl-key"];
            (format!("mysql://airflow@{host}:{}/work", tls.port), words)
        }
    };
    let mut url = format!("{head}?{}", words[0]);
    for (option, file) in options {
        let word = match *option {
            "ca" => words[1],
            "cert" => words[2],
            _ => words[3],
        };
        url += &format!("&{word}={file}");
    }
    url
}

async fn connect(server: Server, url: &str) -> StoreResult<Opened> {
    let soon = std::time::Duration::from_secs(5);
    Ok(match server {
        Server::Postgres => {
            let options = PostgresOptions::new(url)?.pool(|pool| pool.acquire_timeout = soon);
            Opened::Postgres(airflow_core::store::PostgresStore::connect_with(options).await?)
        }
        Server::Mysql => {
            let options = MysqlOptions::new(url)?.pool(|pool| pool.acquire_timeout = soon);
            Opened::Mysql(airflow_core::store::MysqlStore::connect_with(options).await?)
        }
    })
}

async fn is_kept_private(server: Server) {
    let Some(tls) = TlsServer::start(server) else { return };
    let (ca, other) = (tls.file("ca.pem"), tls.file("other.pem"));
    let (cert, key) = (tls.file("client.pem"), tls.file("client.key"));
    let own = [("cert", cert.as_str()), ("key", key.as_str())];
    let whole = [&[("ca", ca.as_str())], &own[..]].concat();

    let opened = connect(server, &address(server, &tls, "localhost", &whole)).await.unwrap();
    let store = opened.shared();
    let row = run(&store, "r").await;
    assert_eq!(store.runs(&airflow_core::store::RunFilter::default()).await.unwrap(), [row]);

    let foreign = [&[("ca", other.as_str())], &own[..]].concat();
    let error = connect(server, &address(server, &tls, "localhost", &foreign)).await.unwrap_err().to_string();
    assert!(
        error.contains("UnknownIssuer") && error.contains("of the authority in `sslrootcert`"),
        "{error}"
    );

    // The certificate is for `localhost`.
    let error = connect(server, &address(server, &tls, "127.0.0.1", &whole)).await.unwrap_err().to_string();
    assert!(error.contains("for this name") && error.contains("127.0.0.1"), "{error}");

    let nobody = [("ca", ca.as_str())];
    let error = connect(server, &address(server, &tls, "localhost", &nobody)).await.unwrap_err().to_string();
    let said = match server {
        Server::Postgres => "client certificate",
        Server::Mysql => "Access denied for user 'airflow'",
    };
    assert!(error.contains(said), "{error}");

    let missing = [("ca", "/not/there/ca.pem")];
    let error = connect(server, &address(server, &tls, "localhost", &missing)).await.unwrap_err().to_string();
    assert!(error.contains("cannot open the database"), "{error}");
}

#[tokio::test]
async fn postgres_is_reached_by_tls_with_a_private_authority() {
    is_kept_private(Server::Postgres).await;
}

#[tokio::test]
async fn mariadb_is_reached_by_tls_with_a_private_authority() {
    is_kept_private(Server::Mysql).await;
}
