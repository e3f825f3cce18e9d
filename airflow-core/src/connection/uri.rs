//! A connection as a URI, read and written the way Airflow's Python does it.

use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::{Map, Value};

use super::json::dumps;
use super::{Connection, ConnectionError, EXTRA_KEY, normalized_type};
use crate::secret::Secret;

/// What is written as `%XX`: all but letters, digits and these four.
const QUOTED: AsciiSet = NON_ALPHANUMERIC.remove(b'_').remove(b'.').remove(b'-').remove(b'~');

impl Connection {
    /// Reads `type://login:password@host:port/schema?key=value`. Every part may hold `%XX`; what follows `?` becomes
    /// the extra, all values texts.
    ///
    /// ```
    /// use airflow_core::connection::Connection;
    ///
    /// let conn = Connection::from_uri("warehouse", "postgresql://etl:p%40ss@db:5432/sales?sslmode=require")?;
    /// assert_eq!(conn.conn_type.as_deref(), Some("postgres"));
    /// assert_eq!(conn.password.as_ref().map(|p| p.expose().as_str()), Some("p@ss"));
    /// assert_eq!(conn.extra_json()["sslmode"], "require");
    /// # Ok::<(), airflow_core::connection::ConnectionError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ConnectionError::Protocols`], [`ConnectionError::Host`], [`ConnectionError::Port`].
    pub fn from_uri(conn_id: impl Into<String>, uri: &str) -> Result<Self, ConnectionError> {
        let uri = &uri.replace(['\t', '\r', '\n'], "");
        let protocols = uri.matches("://").count();
        if protocols > 2 {
            return Err(ConnectionError::Protocols);
        }
        let with_protocol = protocols == 2;
        let scheme = split(uri)?.scheme;
        let rest = uri.replace(&format!("{scheme}://"), if with_protocol { "" } else { "//" });
        if with_protocol && rest.split("://").next().is_some_and(|first| first.contains(['@', ':'])) {
            return Err(ConnectionError::Protocols);
        }
        let parts = split(&rest)?;
        let authority = parts.authority()?;
        let mut host = hostname(parts.netloc, authority.host);
        if with_protocol && !parts.scheme.is_empty() && !host.is_empty() {
            host = format!("{}://{host}", parts.scheme);
        }
        let path = parts.path.char_indices().nth(1).map_or("", |(at, _)| &parts.path[at..]);
        let connection = Self {
            conn_id: conn_id.into(),
            conn_type: Some(normalized_type(&scheme)),
            host: Some(host),
            schema: Some(unquote(path)),
            login: authority.login.map(unquote),
            port: authority.port,
            extra: extra_of(parts.query),
            ..Self::default()
        };
        Ok(connection.with_password(authority.password.map(unquote).unwrap_or_default()))
    }

    /// Writes the connection as a URI. It is not hidden: it holds the password.
    pub fn to_uri(&self) -> String {
        let conn_type = self.conn_type.as_deref().unwrap_or_default().to_lowercase().replace('_', "-");
        let mut uri = if conn_type.is_empty() { "//".to_owned() } else { format!("{conn_type}://") };
        let host = self.host.as_deref().unwrap_or_default();
        let (protocol, host) = host.split_once("://").unwrap_or(("", host));
        if !protocol.is_empty() {
            uri += protocol;
            uri += "://";
        }
        let mut login = self.login.as_deref().map(quote).unwrap_or_default();
        if let Some(password) = &self.password {
            login += ":";
            login += &quote(password.expose());
        }
        if !login.is_empty() {
            uri += &login;
            uri += "@";
        }
        uri += &quote(host);
        if let Some(port) = self.port.filter(|port| *port != 0) {
            uri += if host.is_empty() && login.is_empty() { "@:" } else { ":" };
            // Writing to a String cannot fail.
            let _ = write!(uri, "{port}");
        }
        let schema = self.schema.as_deref().unwrap_or_default();
        if !schema.is_empty() {
            uri += "/";
            uri += &quote(schema);
        }
        if let Some(extra) = self.extra.as_ref().filter(|extra| !extra.expose().is_empty()) {
            uri += if schema.is_empty() { "/?" } else { "?" };
            uri += &query_of(extra.expose());
        }
        uri
    }
}

/// A flat object of texts is a query; anything else goes as one text under its own name.
fn query_of(extra: &str) -> String {
    let pair = |name: &str, value: &str| format!("{}={}", quote_plus(name), quote_plus(value));
    let flat = match serde_json::from_str(extra) {
        Ok(Value::Object(map)) if !map.is_empty() => {
            map.iter().map(|(name, value)| Some(pair(name, value.as_str()?))).collect::<Option<Vec<_>>>()
        }
        _ => None,
    };
    flat.map_or_else(|| pair(EXTRA_KEY, extra), |pairs| pairs.join("&"))
}

fn extra_of(query: &str) -> Option<Secret> {
    let mut fields = Map::new();
    for field in query.split('&').filter(|field| !field.is_empty()) {
        let (name, value) = field.split_once('=').unwrap_or((field, ""));
        fields.insert(unquote(&name.replace('+', " ")), unquote(&value.replace('+', " ")).into());
    }
    match fields.remove(EXTRA_KEY) {
        Some(Value::String(raw)) => Some(Secret::new(raw)),
        _ if query.is_empty() => None,
        _ => Some(Secret::new(dumps(&Value::Object(fields)))),
    }
}

fn quote(text: &str) -> String {
    utf8_percent_encode(text, &QUOTED).to_string()
}

fn quote_plus(text: &str) -> String {
    quote(text).replace("%20", "+")
}

fn unquote(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// The host; one that holds a `/` once decoded keeps its upper case.
fn hostname(netloc: &str, host: &str) -> String {
    let (name, zone) = host.split_once('%').map_or((host, None), |(name, zone)| (name, Some(zone)));
    let lower = zone.map_or_else(|| name.to_lowercase(), |zone| format!("{}%{zone}", name.to_lowercase()));
    let decoded = unquote(&lower);
    if !decoded.contains('/') {
        return decoded;
    }
    let host = netloc.rsplit_once('@').map_or(netloc, |(_, host)| host);
    unquote(host.split(':').next().unwrap_or_default())
}

/// The parts of a URL, not decoded.
struct Url<'a> {
    scheme: String,
    netloc: &'a str,
    path: &'a str,
    query: &'a str,
}

struct Authority<'a> {
    login: Option<&'a str>,
    password: Option<&'a str>,
    host: &'a str,
    port: Option<u16>,
}

/// Splits a URL like Python's `urlsplit`.
fn split(url: &str) -> Result<Url<'_>, ConnectionError> {
    let url = url.trim_start_matches(|c: char| c <= ' ');
    let of_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    let (scheme, rest) = match url.split_once(':') {
        Some((scheme, rest))
            if scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(of_scheme) =>
        {
            (scheme.to_lowercase(), rest)
        }
        _ => (String::new(), url),
    };
    let (netloc, rest) = match rest.strip_prefix("//") {
        Some(rest) => rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len())),
        None => ("", rest),
    };
    check_netloc(netloc)?;
    let rest = rest.split('#').next().unwrap_or_default();
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    Ok(Url { scheme, netloc, path, query })
}

impl<'a> Url<'a> {
    fn authority(&self) -> Result<Authority<'a>, ConnectionError> {
        let (user, host) = match self.netloc.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, self.netloc),
        };
        let (login, password) = match user {
            Some(user) => user.split_once(':').map_or((Some(user), None), |(l, p)| (Some(l), Some(p))),
            None => (None, None),
        };
        let (host, port) = match host.split_once('[') {
            Some((_, bracketed)) => {
                let (host, port) = bracketed.split_once(']').unwrap_or((bracketed, ""));
                (host, port.split_once(':').map_or("", |(_, port)| port))
            }
            None => host.split_once(':').unwrap_or((host, "")),
        };
        let number = || {
            let digits = port.bytes().all(|b| b.is_ascii_digit());
            let number = port.trim_start_matches('0');
            let number = if number.is_empty() { "0" } else { number };
            number.parse().ok().filter(|_| digits).ok_or(ConnectionError::Port)
        };
        let port = if port.is_empty() { None } else { Some(number()?) };
        Ok(Authority { login, password, host, port })
    }
}

/// Characters that become one of `/?#@:` when a browser or a resolver normalises them.
const CONFUSABLE: &str = "\u{2047}\u{2048}\u{2049}\u{2100}\u{2101}\u{2105}\u{2106}\u{2a74}\u{fe13}\u{fe16}\u{fe55}\
                          \u{fe56}\u{fe5f}\u{fe6b}\u{ff03}\u{ff0f}\u{ff1a}\u{ff1f}\u{ff20}";

fn check_netloc(netloc: &str) -> Result<(), ConnectionError> {
    let host = netloc.rsplit_once('@').map_or(netloc, |(_, host)| host);
    if netloc.contains('[') != netloc.contains(']') {
        return Err(ConnectionError::Host("`[` and `]` do not match"));
    }
    if netloc.contains('[') {
        let (before, bracketed) = host.split_once('[').unwrap_or(("", host));
        let (address, after) = bracketed.split_once(']').unwrap_or((bracketed, ""));
        if !before.is_empty() || !(after.is_empty() || after.starts_with(':')) {
            return Err(ConnectionError::Host("only a port may stand beside an address in brackets"));
        }
        if !is_bracketed_address(address) {
            return Err(ConnectionError::Host("what stands in brackets is no IPv6 address"));
        }
    }
    if netloc.contains(|c| CONFUSABLE.contains(c)) {
        return Err(ConnectionError::Host("it holds a character that looks like `/`, `?`, `#`, `@` or `:`"));
    }
    Ok(())
}

fn is_bracketed_address(address: &str) -> bool {
    if let Some(future) = address.strip_prefix('v') {
        let (version, rest) = future.split_once('.').unwrap_or((future, ""));
        return !version.is_empty() && version.bytes().all(|b| b.is_ascii_hexdigit()) && !rest.is_empty();
    }
    let (address, zone) = address.split_once('%').unwrap_or((address, "zone"));
    address.parse::<std::net::Ipv6Addr>().is_ok() && !zone.is_empty() && !zone.contains('%')
}
