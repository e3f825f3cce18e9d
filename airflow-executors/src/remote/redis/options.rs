//! Where Redis is.

use std::fmt;
use std::time::Duration;

use airflow_core::secret::Secret;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisResult,
    TlsCertificates,
};

use crate::remote::TransportError;
use crate::remote::transport::{check_authority, check_identity};

/// The port of sentinels, if none is given.
const SENTINEL_PORT: u16 = 26379;
/// A peer that vanished is noticed this long after it was last heard of, also by connections that only listen.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Where Redis is and what we call ourselves there.
///
/// Addresses:
///
/// - `redis://[[user]:password@]host[:port][/db]`, with TLS `rediss://`;
/// - `sentinel://[[user]:password@]host[:port],host[:port],../[db]?master=name[&sentinel_password=..]`, with TLS
///   `sentinels://`: the sentinels tell where the master is, each time a connection is made.
///
/// ```
/// use airflow_executors::remote::redis::{RedisOptions, RedisTransport};
/// use airflow_executors::remote::Transport as _;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let options = RedisOptions::new("redis://:pa55@broker:6380/1").prefix("sales:");
/// let transport = RedisTransport::new(&options)?;
/// assert_eq!(transport.place(), "redis://broker:6380/1");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct RedisOptions {
    url: Secret,
    pub(super) prefix: String,
    ca: Option<Vec<u8>>,
    identity: Option<(String, Secret)>,
}

impl RedisOptions {
    /// Redis at this address, with the prefix `airflow:` and the certificates of public authorities.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: Secret::new(url.into()), prefix: "airflow:".into(), ca: None, identity: None }
    }

    /// What all keys and channels begin with. Two installations on one server need different ones, also if they use
    /// different databases of it.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// The certificate of the authority to trust for `rediss://` and `sentinels://`, in PEM, instead of public ones.
    #[must_use]
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca = Some(pem.into());
        self
    }

    /// A certificate of ours and its key (PKCS #8), in PEM, for a server that wants to know who connects. With sentinels
    /// they are shown to these as well.
    #[must_use]
    pub fn client_pem(mut self, certificate: impl Into<String>, key: impl Into<String>) -> Self {
        self.identity = Some((certificate.into(), Secret::new(key.into())));
        self
    }

    /// What TLS is to be made with, if it is not the usual.
    fn certificates(&self) -> Result<Option<TlsCertificates>, TransportError> {
        self.ca.as_deref().map_or(Ok(()), check_authority)?;
        let mut client_tls = None;
        if let Some((certificate, key)) = &self.identity {
            check_identity(certificate, key.expose())?;
            let (client_cert, client_key) = (certificate.clone().into(), key.expose().clone().into());
            client_tls = Some(ClientTlsConfig { client_cert, client_key });
        }
        let root_cert = self.ca.clone();
        let is_usual = client_tls.is_none() && root_cert.is_none();
        Ok((!is_usual).then_some(TlsCertificates { client_tls, root_cert }))
    }

    /// Where to connect to.
    pub(super) fn target(&self) -> Result<Target, TransportError> {
        let url = self.url.expose();
        let certificates = self.certificates()?;
        let (scheme, rest) = url.split_once("://").ok_or_else(|| invalid("it has no scheme"))?;
        if scheme.ends_with('s') && scheme != "redis" {
            // A program that links several providers of cryptography has to say which; if it did, this does nothing.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        match scheme {
            "redis" | "rediss" => {
                let info =
                    url.as_str().into_connection_info().map_err(|error| invalid(&error.to_string()))?;
                let place = format!("{scheme}://{}/{}", info.addr(), info.redis_settings().db());
                let db = info.redis_settings().db();
                let info = info.set_tcp_settings(tcp());
                let target = Target { place, db, certificates, servers: Servers::One(Box::new(info)) };
                // What cannot work is said now.
                target.direct()?;
                Ok(target)
            }
            "sentinel" | "sentinels" => sentinels(scheme, rest, certificates),
            _ => Err(invalid("its scheme is none of redis, rediss, sentinel, sentinels")),
        }
    }
}

fn invalid(problem: &str) -> TransportError {
    TransportError::Invalid(format!(
        "the address of Redis cannot be used: {problem}; write redis://:password@host:6379/0, or \
         sentinel://:password@host:26379,host:26379/0?master=name"
    ))
}

fn tcp() -> TcpSettings {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 4);
    TcpSettings::default().set_nodelay(true).set_keepalive(keepalive)
}

/// `user:password@host:port,host:port/db?master=name`.
fn sentinels(
    scheme: &str,
    rest: &str,
    certificates: Option<TlsCertificates>,
) -> Result<Target, TransportError> {
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    // Hosts apart, it is a URL like any other.
    let url = url::Url::parse(&format!("redis://{user}@sentinels/{path}"))
        .map_err(|error| invalid(&error.to_string()))?;
    let mut found = Sentinels { tls: scheme == "sentinels", ..Sentinels::default() };
    for host in hosts.split(',').filter(|host| !host.is_empty()) {
        let (name, port) = match host.rsplit_once(':').filter(|_| !host.ends_with(']')) {
            Some((name, port)) => (name, port.parse().map_err(|_| invalid(&format!("`{port}` is no port")))?),
            None => (host, SENTINEL_PORT),
        };
        found.nodes.push((name.trim_matches(['[', ']']).to_owned(), port));
    }
    if found.nodes.is_empty() {
        return Err(invalid("it names no sentinel"));
    }
    let db = url.path().trim_matches('/');
    found.db =
        if db.is_empty() { 0 } else { db.parse().map_err(|_| invalid("its database is no number"))? };
    let text = |text: &str| percent_decoded(text).ok_or_else(|| invalid("its user or password is not UTF-8"));
    found.user = text(url.username())?;
    found.password = Secret::new(text(url.password().unwrap_or_default())?);
    for (key, value) in url.query_pairs() {
        match &*key {
            "master" => found.master = value.into_owned(),
            "sentinel_password" => found.sentinel_password = Secret::new(value.into_owned()),
            other => return Err(invalid(&format!("it has the unknown setting `{other}`"))),
        }
    }
    if found.master.is_empty() {
        return Err(invalid("it does not say which master to ask the sentinels for (`?master=name`)"));
    }
    let place = format!("{scheme}://{hosts}/{}?master={}", found.db, found.master);
    Ok(Target { place, db: found.db, certificates, servers: Servers::Sentinels(Box::new(found)) })
}

fn percent_decoded(text: &str) -> Option<String> {
    Some(percent_encoding::percent_decode_str(text).decode_utf8().ok()?.into_owned())
}

/// A place to connect to.
pub(super) struct Target {
    /// For people.
    pub(super) place: String,
    pub(super) db: i64,
    certificates: Option<TlsCertificates>,
    servers: Servers,
}

enum Servers {
    One(Box<ConnectionInfo>),
    Sentinels(Box<Sentinels>),
}

#[derive(Default)]
struct Sentinels {
    nodes: Vec<(String, u16)>,
    master: String,
    user: String,
    password: Secret,
    sentinel_password: Secret,
    db: i64,
    tls: bool,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Target").field(&self.place).finish()
    }
}

impl Target {
    /// A client of the server that is the master now.
    pub(super) async fn client(&self) -> RedisResult<Client> {
        match &self.servers {
            Servers::One(info) => client(info, self.certificates.as_ref()),
            Servers::Sentinels(sentinels) => {
                // Built each time: nothing that was learnt about a dead sentinel or master is to be kept.
                sentinels.builder(self.certificates.as_ref())?.build()?.async_get_client().await
            }
        }
    }

    fn direct(&self) -> Result<(), TransportError> {
        let Servers::One(info) = &self.servers else { return Ok(()) };
        client(info, self.certificates.as_ref()).map(|_| ()).map_err(|error| invalid(&error.to_string()))
    }
}

fn client(info: &ConnectionInfo, certificates: Option<&TlsCertificates>) -> RedisResult<Client> {
    match certificates {
        Some(certificates) => Client::build_with_tls(info.clone(), certificates.clone()),
        None => Client::open(info.clone()),
    }
}

impl Sentinels {
    fn builder(&self, certificates: Option<&TlsCertificates>) -> RedisResult<SentinelClientBuilder> {
        let address = |(host, port): &(String, u16)| {
            let (host, port) = (host.clone(), *port);
            if self.tls {
                ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
            } else {
                ConnectionAddr::Tcp(host, port)
            }
        };
        let nodes = self.nodes.iter().map(address);
        let mut builder = SentinelClientBuilder::new(nodes, &self.master, SentinelServerType::Master)?
            .set_client_to_redis_db(self.db)
            .set_client_to_redis_tcp_settings(tcp())
            .set_client_to_sentinel_tcp_settings(tcp());
        if self.tls {
            builder = builder.set_client_to_redis_tls_mode(redis::TlsMode::Secure);
            if let Some(certificates) = certificates {
                builder = builder
                    .set_client_to_redis_certificates(certificates.clone())
                    .set_client_to_sentinel_certificates(certificates.clone());
            }
        }
        if !self.user.is_empty() {
            builder = builder.set_client_to_redis_username(&self.user);
        }
        if !self.password.expose().is_empty() {
            builder = builder.set_client_to_redis_password(self.password.expose());
        }
        if !self.sentinel_password.expose().is_empty() {
            builder = builder.set_client_to_sentinel_password(self.sentinel_password.expose());
        }
        Ok(builder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(url: &str) -> Result<String, String> {
        RedisOptions::new(url).target().map(|target| target.place).map_err(|error| error.to_string())
    }

    #[test]
    fn places_show_no_secrets() {
        for (url, shown) in [
            ("redis://h", "redis://h:6379/0"),
            ("redis://u:pa55@h:7/3", "redis://h:7/3"),
            ("rediss://:pa55@h", "rediss://h:6379/0"),
            ("sentinel://:pa55@a,b:7/2?master=m", "sentinel://a,b:7/2?master=m"),
            ("sentinels://u:p%40@a/?master=m&sentinel_password=pa55", "sentinels://a/0?master=m"),
        ] {
            assert_eq!(place(url).as_deref(), Ok(shown), "{url}");
        }
        assert!(!format!("{:?}", RedisOptions::new("redis://:pa55@h")).contains("pa55"));
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        for (url, why) in [
            ("broker:6379", "it has no scheme"),
            ("amqp://h", "its scheme is none of"),
            ("redis://", "hostname"),
            ("redis://h/x", "database"),
            ("sentinel://a/0", "which master"),
            ("sentinel:///0?master=m", "names no sentinel"),
            ("sentinel://a:x/0?master=m", "`x` is no port"),
            ("sentinel://a/0?master=m&x=1", "`x`"),
        ] {
            let refused = place(url).unwrap_err();
            assert!(refused.to_lowercase().contains(why), "{url}: {refused}");
        }
        let refused = RedisOptions::new("rediss://h").ca_pem("no certificate").target();
        assert!(matches!(&refused, Err(TransportError::Invalid(_))), "{refused:?}");
        let options = RedisOptions::new("rediss://h").client_pem("no certificate", "pa55");
        assert!(!format!("{options:?}").contains("pa55"));
        let refused = options.target().unwrap_err().to_string();
        assert!(refused.contains("are to be in PEM"), "{refused}");
    }

    #[test]
    fn passwords_of_sentinels_may_have_any_characters() {
        let target = RedisOptions::new("sentinel://u+1:p%40%2B+%26%23@a/1?master=m").target().unwrap();
        let Servers::Sentinels(found) = target.servers else { panic!("it is one") };
        assert_eq!((found.user.as_str(), found.password.expose().as_str()), ("u+1", "p@++&#"));
    }
}
