//! How values print and compare in Python: `str()`, `repr()`, numbers, and the classes of values.
//!
//! Everything a template prints goes through [`write_str`]. Nothing here changes a value. Output is written to a
//! [`Text`], which stops at a limit, so that a value that refers to another many times cannot fill the memory.

use std::fmt::{self, Write as _};

use minijinja::value::{ObjectRepr, ValueKind};
use minijinja::{Error, Value};

use super::error::{TemplateErrorKind, raise};

/// The most text that one value or one rendering may produce: 10 MiB is far above any sensible command or query
/// and far below what would hurt a worker.
pub(super) const MAX_TEXT: usize = 10 * 1024 * 1024;

/// How deep lists and dicts may nest; every recursive walk over values stops here, long before the stack does.
pub(super) const MAX_DEPTH: usize = 100;

/// A string that refuses to grow beyond [`MAX_TEXT`].
#[derive(Default)]
pub(super) struct Text(pub(super) String);

impl Text {
    pub(super) fn push(&mut self, text: &str) -> Result<(), Error> {
        if self.0.len() + text.len() > MAX_TEXT {
            return Err(too_large());
        }
        self.0.push_str(text);
        Ok(())
    }
}

/// Appends formatted text to a string.
pub(super) fn put(out: &mut String, text: fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a string cannot fail");
}

/// The error for text or lists beyond their limit.
pub(super) fn too_large() -> Error {
    raise(TemplateErrorKind::Limit, format!("the result is larger than {} MiB", MAX_TEXT / (1024 * 1024)))
}

/// The error for values nested beyond [`MAX_DEPTH`].
pub(super) fn too_deep() -> Error {
    raise(TemplateErrorKind::Limit, format!("lists and dicts nest deeper than {MAX_DEPTH} levels"))
}

/// `str(value)`.
pub(super) fn to_str(value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    let mut out = Text::default();
    write_str(value, &mut out)?;
    Ok(out.0)
}

/// `repr(value)`.
pub(super) fn to_repr(value: &Value) -> Result<String, Error> {
    let mut out = Text::default();
    write_repr(value, &mut out, 0)?;
    Ok(out.0)
}

/// Appends `str(value)`; an undefined value prints as nothing.
pub(super) fn write_str(value: &Value, out: &mut Text) -> Result<(), Error> {
    match value.kind() {
        ValueKind::String => out.push(value.as_str().unwrap_or_default()),
        ValueKind::Undefined => Ok(()),
        ValueKind::Plain => out.push(&value.to_string()),
        _ => write_repr(value, out, 0),
    }
}

fn write_repr(value: &Value, out: &mut Text, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    match value.kind() {
        ValueKind::String => out.push(&quoted(value.as_str().unwrap_or_default())),
        ValueKind::Number if !value.is_integer() => out.push(&float(as_float(value).unwrap_or_default())),
        ValueKind::Undefined => out.push("Undefined"),
        ValueKind::Plain => match value.as_object().and_then(super::datetime::repr_of) {
            Some(repr) => out.push(&repr),
            None => out.push(&value.to_string()),
        },
        ValueKind::Map => write_map(value, out, depth),
        ValueKind::Seq | ValueKind::Iterable => write_seq(value, out, depth),
        _ => out.push(&value.to_string()),
    }
}

fn write_map(value: &Value, out: &mut Text, depth: usize) -> Result<(), Error> {
    let Some(object) = value.as_object() else { return Ok(()) };
    if !super::containers::is_dict(value) {
        return out.push(&value.to_string());
    }
    out.push("{")?;
    for (index, (key, item)) in object.try_iter_pairs().into_iter().flatten().enumerate() {
        if index > 0 {
            out.push(", ")?;
        }
        write_repr(&key, out, depth + 1)?;
        out.push(": ")?;
        write_repr(&item, out, depth + 1)?;
    }
    out.push("}")
}

fn write_seq(value: &Value, out: &mut Text, depth: usize) -> Result<(), Error> {
    if super::methods::prints_itself(value) {
        return out.push(&value.to_string());
    }
    let tuple = value.is_tuple();
    let (open, close) = if tuple { ("(", ")") } else { ("[", "]") };
    out.push(open)?;
    let mut count = 0;
    for item in value.try_iter()?.checked() {
        if count > 0 {
            out.push(", ")?;
        }
        write_repr(&item?, out, depth + 1)?;
        count += 1;
    }
    if tuple && count == 1 {
        out.push(",")?;
    }
    out.push(close)
}

/// `repr()` of a string: single quotes unless only those occur in it, and escapes for what cannot be seen.
pub(super) fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if is_printable(c) => out.push(c),
            c => {
                let code = u32::from(c);
                let written = match code {
                    0..=0xff => write!(out, "\\x{code:02x}"),
                    0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
                written.expect("writing to a string cannot fail");
            }
        }
    }
    out.push(quote);
    out
}

/// `str.isprintable` for one character, as far as the escapes of `repr` need it: controls, formats, separators
/// other than the space, and private use do not print.
fn is_printable(c: char) -> bool {
    !(c.is_control()
        || matches!(u32::from(c),
            0xa0 | 0xad | 0x600..=0x605 | 0x61c | 0x6dd | 0x70f | 0x1680 | 0x180e | 0x2000..=0x200f
            | 0x2028..=0x202f | 0x205f..=0x206f | 0x3000 | 0xe000..=0xf8ff | 0xfeff | 0xfff0..=0xfffb
            | 0xfffe..=0xffff | 0xe0000..=0xe0fff | 0xf_0000..=0x10_ffff))
}

/// `repr()` of a float: the shortest digits that read back, exponents below 1e-4 and from 1e16 on.
pub(super) fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let (mantissa, exponent) = scientific.split_once('e').expect("`{:e}` always prints an exponent");
    let exponent: i32 = exponent.parse().expect("`{:e}` prints a decimal exponent");
    if number != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    let plain = format!("{number}");
    if plain.contains('.') { plain } else { plain + ".0" }
}

/// The value as a number, if it is one (a boolean is one in Python).
pub(super) fn as_float(value: &Value) -> Option<f64> {
    match value.kind() {
        ValueKind::Bool => Some(if value.is_true() { 1.0 } else { 0.0 }),
        ValueKind::Number => f64::try_from(value.clone()).ok().or_else(|| {
            #[expect(clippy::cast_precision_loss, reason = "Python rounds large integers to floats as well")]
            i128::try_from(value.clone()).ok().map(|n| n as f64)
        }),
        _ => None,
    }
}

/// The value as an integer, if it is one (a boolean is one in Python; a float never is).
pub(super) fn as_int(value: &Value) -> Option<i128> {
    match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    }
}

/// An integer value in the smallest representation that holds it.
pub(super) fn int_value(number: i128) -> Value {
    i64::try_from(number).map_or_else(|_| Value::from(number), Value::from)
}

/// The name of the value's class, for messages.
pub(super) fn class_of(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::Undefined => "undefined",
        ValueKind::None => "NoneType",
        ValueKind::Bool => "bool",
        ValueKind::Number if value.is_integer() => "int",
        ValueKind::Number => "float",
        ValueKind::String => "str",
        ValueKind::Bytes => "bytes",
        ValueKind::Map => "dict",
        ValueKind::Seq | ValueKind::Iterable if value.is_tuple() => "tuple",
        ValueKind::Seq | ValueKind::Iterable => "list",
        _ => value.as_object().and_then(super::datetime::class_name).unwrap_or("object"),
    }
}

/// Whether the value is a list, tuple or other sequence of items (not a string, not a dict).
pub(super) fn is_seq(value: &Value) -> bool {
    value.as_object().is_some_and(|o| matches!(o.repr(), ObjectRepr::Seq | ObjectRepr::Iterable))
}

/// The items of any iterable value; an error for what Python cannot iterate either.
pub(super) fn items(value: &Value) -> Result<Vec<Value>, Error> {
    match value.kind() {
        ValueKind::String | ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => {
            value.try_iter()?.checked().collect()
        }
        ValueKind::Undefined => Err(super::error::undefined("an undefined value cannot be iterated over")),
        _ => Err(super::error::type_error(format!("'{}' object is not iterable", class_of(value)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_python_prints_them() {
        for (number, expected) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (1000.0, "1000.0"),
            (0.1 + 0.2, "0.30000000000000004"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.000_01, "1e-05"),
            (f64::INFINITY, "inf"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(float(number), expected);
        }
    }

    #[test]
    fn strings_in_lists_are_quoted_as_python_quotes_them() {
        for (text, expected) in [
            ("a", "'a'"),
            ("it's", "\"it's\""),
            ("'\"", "'\\'\"'"),
            ("\n\t\\", "'\\n\\t\\\\'"),
            ("é日", "'é日'"),
            ("\u{a0}\u{200b}\u{7f}", "'\\xa0\\u200b\\x7f'"),
        ] {
            assert_eq!(quoted(text), expected);
        }
    }
}
