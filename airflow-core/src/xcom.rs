//! Values that travel between tasks.
//!
//! A task returns a Rust value; it is stored as JSON text and read back as the type that the next task asks for.
//! [`Data`] is what a type needs for that; [`XComValue`] is one stored value.

use std::any::TypeId;
use std::sync::{Arc, OnceLock};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The key under which the result of a task is stored.
pub const RETURN_VALUE: &str = "return_value";

/// The key under which a branch or short circuit stores what it did not choose.
pub const SKIP_KEY: &str = "skipmixin_key";

/// The largest value that is stored, in bytes of JSON, unless configured otherwise. Larger data belongs into a file
/// or table; the task returns where it is.
pub const DEFAULT_XCOM_LIMIT: usize = 1024 * 1024;

/// The longest key of a value, in characters.
pub const MAX_KEY_CHARS: usize = 512;

/// What can travel between tasks: anything that serde can write and read back.
///
/// Implemented for every type that is `Serialize + DeserializeOwned + Send + Sync + 'static`; never by hand.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot travel between tasks",
    label = "this type is not data that can be stored",
    note = "derive `Serialize` and `Deserialize` for it, or return a reference to it, such as a path or a key"
)]
pub trait Data: Serialize + DeserializeOwned + Send + Sync + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Data for T {}

/// What `#[task]` says its output is: the type itself, if it is [`Data`].
///
/// It only serves the error message: a bound on an associated type would be reported once for each trait behind it.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot travel between tasks",
    label = "this type is not data that can be stored",
    note = "derive `Serialize` and `Deserialize` for it, or return a reference to it, such as a path or a key"
)]
pub trait Stored {
    /// The type itself.
    type Type: Data;
}

#[diagnostic::do_not_recommend]
impl<T: Data> Stored for T {
    type Type = T;
}

/// One value as it is stored: JSON text, parsed at most once.
#[derive(Debug)]
pub struct XComValue {
    text: Box<str>,
    parsed: OnceLock<Value>,
}

/// Why a value was not stored or could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum XComError {
    /// Larger than the limit: nothing was stored.
    #[error(
        "the value `{key}` has {size} bytes, {limit} are allowed; store it elsewhere and return where it is, or raise \
         `xcom_limit`"
    )]
    TooLarge {
        /// The key of the value.
        key: String,
        /// Its size in bytes of JSON.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// serde could not write it.
    #[error("the value `{key}` cannot be written as JSON: {error}")]
    NotJson {
        /// The key of the value.
        key: String,
        /// What serde says.
        error: String,
    },
    /// The key is empty or too long.
    #[error("the key `{key}` of a value must have 1 to {MAX_KEY_CHARS} characters")]
    BadKey {
        /// The key, cut.
        key: String,
    },
}

impl XComValue {
    /// Writes `value` as JSON, if it is not larger than `limit` bytes.
    ///
    /// # Errors
    ///
    /// [`XComError`] if the key is unfit, the value is no JSON, or it is too large.
    pub fn encode<T: Serialize + ?Sized>(key: &str, value: &T, limit: usize) -> Result<Arc<Self>, XComError> {
        let chars = key.chars().count();
        if chars == 0 || chars > MAX_KEY_CHARS {
            return Err(XComError::BadKey { key: key.chars().take(40).collect() });
        }
        let text = serde_json::to_string(value)
            .map_err(|error| XComError::NotJson { key: key.into(), error: error.to_string() })?;
        if text.len() > limit {
            return Err(XComError::TooLarge { key: key.into(), size: text.len(), limit });
        }
        Ok(Arc::new(Self { text: text.into(), parsed: OnceLock::new() }))
    }

    /// Takes stored text as it is.
    pub fn from_text(text: impl Into<Box<str>>) -> Arc<Self> {
        Arc::new(Self { text: text.into(), parsed: OnceLock::new() })
    }

    /// Takes a JSON value.
    pub fn from_value(value: Value) -> Arc<Self> {
        let text = value.to_string().into();
        Arc::new(Self { text, parsed: OnceLock::from(value) })
    }

    /// The JSON text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The value; text that is no JSON reads as a string.
    pub fn value(&self) -> &Value {
        self.parsed.get_or_init(|| {
            serde_json::from_str(&self.text).unwrap_or_else(|_| Value::String(self.text.clone().into()))
        })
    }

    /// Reads the value as `T`.
    ///
    /// # Errors
    ///
    /// What serde says about the text.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        match self.parsed.get() {
            Some(value) => T::deserialize(value),
            None => serde_json::from_str(&self.text),
        }
    }

    /// How many instances a task gets that is mapped over this value; `None` if it is no list and no object.
    pub fn map_length(&self) -> Option<usize> {
        match self.value() {
            Value::Array(list) => Some(list.len()),
            Value::Object(object) => Some(object.len()),
            _ => None,
        }
    }
}

/// Whether a result of type `T` with this text is stored at all. "Nothing" is not: neither `()` nor an untyped null.
pub(crate) fn is_stored<T: 'static>(value: &XComValue) -> bool {
    let untyped = [TypeId::of::<()>(), TypeId::of::<Value>()].contains(&TypeId::of::<T>());
    !(untyped && value.text() == "null")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_over_the_limit_is_refused_with_its_size() {
        let error = XComValue::encode("k", &"x".repeat(100), 50).unwrap_err().to_string();
        assert!(error.starts_with("the value `k` has 102 bytes, 50 are allowed"), "{error}");
        assert!(XComValue::encode("k", &"x".repeat(48), 50).is_ok());
        assert!(XComValue::encode("", &1, 50).is_err());
    }

    #[test]
    fn nothing_is_not_stored_but_none_is() {
        assert!(!is_stored::<()>(&XComValue::from_text("null")));
        assert!(!is_stored::<Value>(&XComValue::from_text("null")));
        assert!(is_stored::<Option<i64>>(&XComValue::from_text("null")));
        assert!(is_stored::<Value>(&XComValue::from_text("0")));
    }
}
