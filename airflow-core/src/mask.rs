//! Keeps secrets out of logs, errors and rendered fields: [`Masker`].
//!
//! A secret is hidden as it is, and in the forms in which it travels: URL-encoded, escaped as in JSON or in Rust's
//! `Debug`, in base64, and line by line.

use std::borrow::Cow;
use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use aho_corasick::{AhoCorasick, MatchKind};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::secret::HIDDEN;

/// What a name holds whose value is a secret, in lower case: Airflow's list.
pub const SENSITIVE_NAMES: [&str; 14] = [
    "access_token",
    "api_key",
    "apikey",
    "authorization",
    "keyfile_dict",
    "passphrase",
    "passwd",
    "password",
    "private_key",
    "proxies",
    "proxy",
    "secret",
    "service_account",
    "token",
];

/// A shorter text is not hidden: it would make logs unreadable, and is easily guessed.
pub const DEFAULT_MIN_LENGTH: usize = 5;

/// How many forms of secrets are known at once. The oldest go when there are more: a process that reads so many
/// different ones must not grow without end.
const MAX_FORMS: usize = 50_000;

/// How deep a JSON value is searched for sensitive names.
const MAX_DEPTH: u32 = 16;

/// Which names are sensitive, and which texts are long enough to be hidden.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaskRules {
    /// Whether anything is hidden because of its name.
    pub by_name: bool,
    /// What a sensitive name may hold besides [`SENSITIVE_NAMES`], in lower case.
    pub more_names: Vec<String>,
    /// The shortest secret that is hidden, in characters.
    pub min_length: usize,
}

impl Default for MaskRules {
    fn default() -> Self {
        Self { by_name: true, more_names: Vec::new(), min_length: DEFAULT_MIN_LENGTH }
    }
}

impl MaskRules {
    /// Whether the value of something with this name is a secret.
    pub fn is_sensitive(&self, name: &str) -> bool {
        let name = name.trim().to_lowercase();
        let more = self.more_names.iter().map(String::as_str);
        self.by_name && SENSITIVE_NAMES.into_iter().chain(more).any(|part| name.contains(part))
    }
}

/// Knows secrets and replaces them by `***`. Clones share what they know.
///
/// ```
/// use airflow_core::mask::Masker;
///
/// let masker = Masker::default();
/// masker.add("p@ss/word");
/// assert_eq!(masker.mask("postgres://u:p%40ss%2Fword@db, p@ss/word"), "postgres://u:***@db, ***");
/// ```
#[derive(Clone)]
pub struct Masker {
    rules: Arc<MaskRules>,
    known: Arc<RwLock<Known>>,
}

#[derive(Default)]
struct Known {
    forms: BTreeSet<Arc<str>>,
    /// The forms by age, to let the oldest go.
    by_age: VecDeque<Arc<str>>,
    /// Finds all forms at once; made anew when it is first needed after a change.
    finder: Option<Arc<AhoCorasick>>,
}

impl Default for Masker {
    fn default() -> Self {
        Self::new(MaskRules::default())
    }
}

impl fmt::Debug for Masker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Masker").field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl Masker {
    /// One that knows no secret yet.
    pub fn new(rules: MaskRules) -> Self {
        Self { rules: Arc::new(rules), known: Arc::default() }
    }

    /// The same secrets under other rules.
    #[must_use]
    pub fn with_rules(&self, rules: MaskRules) -> Self {
        Self { rules: Arc::new(rules), known: Arc::clone(&self.known) }
    }

    /// Which names are sensitive.
    pub fn rules(&self) -> &MaskRules {
        &self.rules
    }

    /// Hides a text from now on, wherever [`mask`](Self::mask) is asked. Short ones are left alone.
    pub fn add(&self, secret: &str) {
        let long_enough = |text: &str| text.chars().count() >= self.rules.min_length.max(1);
        if !long_enough(secret) || self.knows(secret) {
            return;
        }
        let mut texts = forms(secret);
        for line in secret.lines().map(str::trim).filter(|line| *line != secret && line.len() >= 8) {
            texts.extend(forms(line));
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for text in texts.into_iter().filter(|text| long_enough(text)) {
            let text: Arc<str> = text.into();
            if known.forms.insert(Arc::clone(&text)) {
                known.by_age.push_back(text);
            }
        }
        while known.by_age.len() > MAX_FORMS {
            if let Some(oldest) = known.by_age.pop_front() {
                known.forms.remove(&oldest);
            }
        }
        known.finder = None;
    }

    /// Hides `value` if `name` is sensitive. In JSON, what stands under sensitive names.
    pub fn add_named(&self, name: &str, value: &str) {
        if self.rules.is_sensitive(name) {
            self.add(value);
        }
        if value.trim_start().starts_with(['{', '['])
            && let Ok(json) = serde_json::from_str(value)
        {
            self.add_json(name, &json);
        }
    }

    /// Hides every text in a JSON value that stands under a sensitive name, `name` being that of the whole.
    pub fn add_json(&self, name: &str, value: &Value) {
        self.walk(self.rules.is_sensitive(name), value, 0);
    }

    fn walk(&self, sensitive: bool, value: &Value, depth: u32) {
        match value {
            Value::String(text) if sensitive => self.add(text),
            Value::Number(number) if sensitive => self.add(&number.to_string()),
            Value::Array(items) if depth < MAX_DEPTH => {
                items.iter().for_each(|item| self.walk(sensitive, item, depth + 1));
            }
            Value::Object(fields) if depth < MAX_DEPTH => {
                for (name, value) in fields {
                    self.walk(sensitive || self.rules.is_sensitive(name), value, depth + 1);
                }
            }
            _ => {}
        }
    }

    fn knows(&self, secret: &str) -> bool {
        self.known.read().unwrap_or_else(PoisonError::into_inner).forms.contains(secret)
    }

    fn finder(&self) -> Option<Arc<AhoCorasick>> {
        {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            if known.forms.is_empty() {
                return None;
            }
            if known.finder.is_some() {
                return known.finder.clone();
            }
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.finder.is_none() {
            let forms = known.forms.iter().map(|form| form.as_bytes());
            let built = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(forms);
            known.finder = built.ok().map(Arc::new);
        }
        known.finder.clone()
    }

    /// The text with every known secret replaced by `***`.
    pub fn mask<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let Some(finder) = self.finder() else { return Cow::Borrowed(text) };
        let mut masked = String::new();
        let mut done = 0;
        for found in finder.find_iter(text) {
            masked.push_str(&text[done..found.start()]);
            masked.push_str(HIDDEN);
            done = found.end();
        }
        if done == 0 {
            return Cow::Borrowed(text);
        }
        masked.push_str(&text[done..]);
        Cow::Owned(masked)
    }

    /// A JSON value with every known secret replaced, and everything under a sensitive name, `name` being that of the
    /// whole.
    #[must_use]
    pub fn mask_json(&self, name: &str, value: &Value) -> Value {
        self.redact(self.rules.is_sensitive(name), value, 0)
    }

    fn redact(&self, sensitive: bool, value: &Value, depth: u32) -> Value {
        match value {
            Value::String(_) | Value::Number(_) if sensitive => HIDDEN.into(),
            Value::Array(_) | Value::Object(_) if depth >= MAX_DEPTH => HIDDEN.into(),
            Value::String(text) => self.mask(text).into(),
            Value::Array(items) => items.iter().map(|item| self.redact(sensitive, item, depth + 1)).collect(),
            Value::Object(fields) => {
                let field = |(name, value): (&String, &Value)| {
                    let sensitive = sensitive || self.rules.is_sensitive(name);
                    (self.mask(name).into_owned(), self.redact(sensitive, value, depth + 1))
                };
                Value::Object(fields.iter().map(field).collect())
            }
            other => other.clone(),
        }
    }
}

/// What stays as it is in a path of a URL.
const PATH: AsciiSet = NON_ALPHANUMERIC.remove(b'_').remove(b'.').remove(b'-').remove(b'~').remove(b'/');
/// What stays as it is in any part of a URL.
const STRICT: AsciiSet = PATH.add(b'/');

/// A secret and the forms in which it travels.
fn forms(secret: &str) -> Vec<String> {
    let strict = utf8_percent_encode(secret, &STRICT).to_string();
    let json = |text: &str| {
        let quoted = Value::from(text).to_string();
        quoted.get(1..quoted.len() - 1).unwrap_or_default().to_owned()
    };
    let ascii: String = json(secret).chars().fold(String::new(), |mut text, c| {
        if c.is_ascii() {
            text.push(c);
        } else {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| text += &format!("\\u{unit:04x}"));
        }
        text
    });
    let debug = format!("{secret:?}");
    vec![
        utf8_percent_encode(secret, &PATH).to_string(),
        strict.replace("%20", "+"),
        lower_escapes(&strict),
        strict,
        json(&json(secret)),
        json(secret),
        ascii,
        debug.get(1..debug.len() - 1).unwrap_or_default().to_owned(),
        STANDARD.encode(secret),
        STANDARD_NO_PAD.encode(secret),
        URL_SAFE.encode(secret),
        URL_SAFE_NO_PAD.encode(secret),
        secret.to_owned(),
    ]
}

/// `%2F` as `%2f`.
fn lower_escapes(text: &str) -> String {
    let mut parts = text.split('%');
    let mut lower = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).unwrap_or((part, ""));
        lower += &format!("%{}{rest}", digits.to_lowercase());
    }
    lower
}

#[cfg(test)]
mod tests;
