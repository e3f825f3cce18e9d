//! What a URI of an asset may be, and how it is written so that two ways of writing one are the same.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::{MAX_ASSET_CHARS, MAX_WATCHER_CHARS};

/// Why an asset cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AssetError {
    /// Nothing, or spaces only.
    #[error("the {0} of an asset is empty; write what tells it from others")]
    Empty(&'static str),
    /// Letters beyond ASCII.
    #[error("asset `{text}`: the {what} may have ASCII characters only; percent-encode others")]
    NotAscii {
        /// `URI`, `name` or `group`.
        what: &'static str,
        /// The text.
        text: String,
    },
    /// Too long to be stored.
    #[error("the {what} of the asset `{head}…` has {chars} characters, {MAX_ASSET_CHARS} is the most")]
    TooLong {
        /// `URI`, `name` or `group`.
        what: &'static str,
        /// How it begins.
        head: String,
        /// How long it is.
        chars: usize,
    },
    /// A scheme that Airflow keeps for itself.
    #[error("asset `{0}`: the scheme `airflow` is reserved; use another one")]
    Reserved(String),
    /// Facts that are no JSON object.
    #[error("the extra of an asset is a JSON object, not `{0}`")]
    NoObject(String),
    /// A watcher whose name is that of another one of the asset, or too long.
    #[error("the watcher `{name}`: {why}; give it another name")]
    Watcher {
        /// Its name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A condition without assets.
    #[error("`{0}` of no assets never holds; name at least one")]
    NoAssets(&'static str),
}

/// What stays as it is in the parameters of a query.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'.').remove(b'-').remove(b'~');

/// A name or group as it may be.
pub(super) fn checked_word(what: &'static str, text: &str) -> Result<(), AssetError> {
    if text.trim().is_empty() {
        return Err(AssetError::Empty(what));
    }
    if !text.is_ascii() {
        return Err(AssetError::NotAscii { what, text: text.to_owned() });
    }
    if text.len() > MAX_ASSET_CHARS {
        return Err(AssetError::TooLong { what, head: text[..40].to_owned(), chars: text.len() });
    }
    Ok(())
}

/// The name of a watcher as it may be; `taken` says whether another one of the asset has it.
pub(super) fn checked_watcher(name: &str, taken: bool) -> Result<(), AssetError> {
    checked_word("watcher", name)?;
    let wrong = |why| Err(AssetError::Watcher { name: name.to_owned(), why });
    match name.len() {
        _ if taken => wrong("the asset has one of this name already"),
        too_long if too_long > MAX_WATCHER_CHARS => wrong("a name has at most 250 characters"),
        _ => Ok(()),
    }
}

/// The URI as all ways of writing it are kept, by the rules of Airflow.
pub(super) fn sanitized(given: &str) -> Result<String, AssetError> {
    checked_word("URI", given)?;
    let Some((scheme, rest)) =
        given.split_once("://").filter(|(scheme, rest)| is_scheme(scheme) && !rest.is_empty())
    else {
        return match given.split_once(':') {
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("airflow") => {
                Err(AssetError::Reserved(given.to_owned()))
            }
            _ => Ok(given.to_owned()),
        };
    };
    let scheme = scheme.to_ascii_lowercase();
    if scheme.starts_with("x-") {
        return Ok(given.to_owned());
    }
    if scheme == "airflow" {
        return Err(AssetError::Reserved(given.to_owned()));
    }
    let rest = rest.split('#').next().unwrap_or_default();
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (host, path) = place.split_at(place.find('/').unwrap_or(place.len()));
    let host = match host.rsplit_once('@') {
        // A password is no part of what the data is called.
        Some((user, host)) if user.contains(':') => host,
        _ => host,
    };
    let path = path.trim_end_matches('/');
    let path = if path.is_empty() { "/" } else { path };
    let query = sorted(query);
    let mark = if query.is_empty() { "" } else { "?" };
    Ok(format!("{scheme}://{host}{path}{mark}{query}"))
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

/// The parameters of a query by name; those without a value are dropped.
fn sorted(query: &str) -> String {
    let decoded = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    let encoded = |text: &str| utf8_percent_encode(text, PLAIN).to_string().replace("%20", "+");
    let mut pairs: Vec<(String, String)> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect();
    pairs.sort();
    let pairs: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
    pairs.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: one asset has one URI, however it is written. Method: spellings and what Airflow makes of them.
    #[test]
    fn spellings_of_one_uri_are_one() {
        for (given, kept) in [
            ("s3://lake/orders", "s3://lake/orders"),
            ("S3://lake/orders//", "s3://lake/orders"),
            ("s3://lake", "s3://lake/"),
            ("s3://lake/", "s3://lake/"),
            ("https://ada:secret@host/x?b=2&a=1 1&empty=#top", "https://host/x?a=1+1&b=2"),
            ("https://ada@host/x", "https://ada@host/x"),
            ("x-Own://A/b/", "x-Own://A/b/"),
            ("orders", "orders"),
            ("dir/orders/", "dir/orders/"),
            ("://", "://"),
        ] {
            assert_eq!(sanitized(given).as_deref(), Ok(kept), "{given}");
            assert_eq!(sanitized(kept).as_deref(), Ok(kept), "again: {given}");
        }
    }

    #[test]
    fn what_is_no_uri_is_refused() {
        for (given, error) in [
            ("", "the URI of an asset is empty; write what tells it from others"),
            ("  ", "the URI of an asset is empty; write what tells it from others"),
            (
                "s3://größe",
                "asset `s3://größe`: the URI may have ASCII characters only; percent-encode others",
            ),
            ("Airflow://x", "asset `Airflow://x`: the scheme `airflow` is reserved; use another one"),
            ("airflow:x", "asset `airflow:x`: the scheme `airflow` is reserved; use another one"),
        ] {
            assert_eq!(sanitized(given).unwrap_err().to_string(), error);
        }
        let long = sanitized(&"x".repeat(1501)).unwrap_err().to_string();
        assert!(long.ends_with("has 1501 characters, 1500 is the most"), "{long}");
    }
}
