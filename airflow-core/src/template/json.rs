//! `json.dumps` and `json.loads` as Python writes and reads JSON.

use minijinja::value::ValueKind;
use minijinja::{Error, Value};

use super::args::Args;
use super::containers::{from_json, pairs};
use super::error::{TemplateErrorKind, raise, type_error};
use super::py::put;
use super::py::{MAX_DEPTH, Text, as_float, as_int, class_of, float, items, to_str, too_deep};

/// How JSON is laid out.
pub(super) struct Layout {
    pub(super) indent: Option<String>,
    pub(super) sort_keys: bool,
    pub(super) ascii: bool,
    pub(super) item_separator: String,
    pub(super) key_separator: String,
    /// What to write for values that JSON does not have: an error, or their text.
    pub(super) others_as_text: bool,
}

impl Layout {
    /// The layout of `json.dumps` without options.
    pub(super) fn plain() -> Self {
        Self {
            indent: None,
            sort_keys: false,
            ascii: true,
            item_separator: ", ".to_owned(),
            key_separator: ": ".to_owned(),
            others_as_text: false,
        }
    }

    /// One item per line, indented by `indent`: a number of spaces, or the text itself.
    pub(super) fn indented(mut self, indent: &Value) -> Result<Self, Error> {
        if indent.is_none() {
            return Ok(self);
        }
        let text = match (indent.as_str(), as_int(indent)) {
            (Some(text), _) => text.to_owned(),
            (None, Some(width)) => " ".repeat(usize::try_from(width.clamp(0, 64)).unwrap_or(0)),
            (None, None) => return Err(type_error("indent must be a number or a string")),
        };
        self.indent = Some(text);
        ",".clone_into(&mut self.item_separator);
        Ok(self)
    }
}

/// `json.dumps(obj, ...)`.
pub(super) fn dumps(raw: &[Value]) -> Result<Value, Error> {
    let args = Args::new("dumps", raw);
    let value = args.required(0, "obj")?;
    let mut layout = Layout::plain();
    if let Some(indent) = args.named("indent") {
        layout = layout.indented(&indent)?;
    }
    layout.sort_keys = args.named("sort_keys").is_some_and(|v| v.is_true());
    layout.ascii = args.named("ensure_ascii").is_none_or(|v| v.is_true());
    // `default=str` is the one function that templates pass.
    layout.others_as_text = args.named("default").is_some_and(|v| !v.is_none());
    if let Some(separators) = args.named("separators").filter(|s| !s.is_none()) {
        let parts = items(&separators)?;
        let [item, key] = parts.as_slice() else { return Err(type_error("separators must be a pair")) };
        (layout.item_separator, layout.key_separator) = (to_str(item)?, to_str(key)?);
    }
    args.done()?;
    write(&value, &layout).map(Value::from)
}

/// `json.loads(text)`.
///
/// # Errors
///
/// Text that is not JSON.
pub(super) fn loads(text: &str) -> Result<Value, Error> {
    serde_json::from_str(text)
        .map(|json| from_json(&json))
        .map_err(|error| raise(TemplateErrorKind::NotJson, format!("the text is not JSON: {error}")))
}

/// `value` as JSON.
///
/// # Errors
///
/// Undefined values, values JSON does not have, and nesting or size beyond the limits.
pub(super) fn write(value: &Value, layout: &Layout) -> Result<String, Error> {
    let mut out = Text::default();
    write_at(value, layout, &mut out, 0)?;
    Ok(out.0)
}

fn write_at(value: &Value, layout: &Layout, out: &mut Text, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    match value.kind() {
        ValueKind::None => out.push("null"),
        ValueKind::Bool => out.push(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push(&number(value)),
        ValueKind::String => out.push(&quoted(value.as_str().unwrap_or_default(), layout.ascii)),
        ValueKind::Seq | ValueKind::Iterable => {
            let values = items(value)?;
            nested(layout, out, depth, ['[', ']'], &values, |item, out| {
                write_at(item, layout, out, depth + 1)
            })
        }
        ValueKind::Map => {
            let mut entries: Vec<(String, Value)> = Vec::new();
            for (key, item) in pairs(value) {
                entries.push((key_text(&key)?, item));
            }
            if layout.sort_keys {
                entries.sort_by(|a, b| a.0.cmp(&b.0));
            }
            nested(layout, out, depth, ['{', '}'], &entries, |(key, item), out| {
                out.push(&quoted(key, layout.ascii))?;
                out.push(&layout.key_separator)?;
                write_at(item, layout, out, depth + 1)
            })
        }
        ValueKind::Undefined => Err(type_error("an undefined value cannot be written as JSON")),
        _ if layout.others_as_text => out.push(&quoted(&to_str(value)?, layout.ascii)),
        _ => Err(type_error(format!("Object of type {} is not JSON serializable", class_of(value)))),
    }
}

fn nested<T>(
    layout: &Layout,
    out: &mut Text,
    depth: usize,
    brackets: [char; 2],
    parts: &[T],
    mut write_part: impl FnMut(&T, &mut Text) -> Result<(), Error>,
) -> Result<(), Error> {
    let line = |out: &mut Text, depth: usize| match &layout.indent {
        Some(indent) => out.push(&format!("\n{}", indent.repeat(depth))),
        None => Ok(()),
    };
    out.push(brackets[0].encode_utf8(&mut [0; 4]))?;
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            out.push(&layout.item_separator)?;
        }
        line(out, depth + 1)?;
        write_part(part, out)?;
    }
    if !parts.is_empty() {
        line(out, depth)?;
    }
    out.push(brackets[1].encode_utf8(&mut [0; 4]))
}

fn number(value: &Value) -> String {
    if as_int(value).is_some() {
        return value.to_string();
    }
    match as_float(value).unwrap_or_default() {
        n if n.is_nan() => "NaN".to_owned(),
        n if n.is_infinite() => if n > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
        n => float(n),
    }
}

fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => to_str(key),
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::Number => Ok(number(key)),
        _ => Err(type_error(format!("keys must be str, int, float, bool or None, not {}", class_of(key)))),
    }
}

fn quoted(text: &str, ascii: bool) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if u32::from(c) < 0x20 || (ascii && !c.is_ascii()) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    put(&mut out, format_args!("\\u{unit:04x}"));
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
