//! JSON values as YAML: block style, strings quoted whenever a reader might take them for something else.

use std::fmt::Write as _;

use serde_json::Value;

/// Writes a value as a YAML document.
pub(crate) fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Array(list) if !list.is_empty() => sequence(&mut out, list, 0),
        Value::Object(map) if !map.is_empty() => mapping(&mut out, map, 0, false),
        scalar => {
            let _ = writeln!(out, "{}", inline(scalar));
        }
    }
    out
}

fn sequence(out: &mut String, list: &[Value], indent: usize) {
    for item in list {
        let _ = write!(out, "{:indent$}- ", "");
        match item {
            Value::Object(map) if !map.is_empty() => mapping(out, map, indent + 2, true),
            nested @ Value::Array(list) if !list.is_empty() => {
                // A list in a list: in flow style, which is JSON.
                let _ = writeln!(out, "{nested}");
            }
            scalar => {
                let _ = writeln!(out, "{}", inline(scalar));
            }
        }
    }
}

fn mapping(out: &mut String, map: &serde_json::Map<String, Value>, indent: usize, inside_item: bool) {
    for (index, (key, value)) in map.iter().enumerate() {
        let pad = if index == 0 && inside_item { 0 } else { indent };
        let _ = write!(out, "{:pad$}{}:", "", text(key));
        match value {
            Value::Object(map) if !map.is_empty() => {
                out.push('\n');
                mapping(out, map, indent + 2, false);
            }
            Value::Array(list) if !list.is_empty() => {
                out.push('\n');
                sequence(out, list, indent);
            }
            scalar => {
                let _ = writeln!(out, " {}", inline(scalar));
            }
        }
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(plain) => text(plain),
        other => other.to_string(),
    }
}

/// A string as it is if no reader can mistake it, else in double quotes, which YAML reads as JSON does.
fn text(plain: &str) -> String {
    let word = |c: char| c.is_ascii_alphanumeric() || "_./".contains(c);
    let safe = plain.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == '/')
        && plain.chars().all(|c| word(c) || c == '-' || c == '+');
    let reserved = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    if safe && !reserved.contains(&plain.to_lowercase().as_str()) {
        plain.to_owned()
    } else {
        Value::String(plain.to_owned()).to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Goal: no value changes its type on the way through YAML. Method: a table of what readers stumble over.
    #[test]
    fn strings_that_look_like_something_else_are_quoted() {
        for (value, yaml) in [
            (json!("plain_text-1.0/x"), "plain_text-1.0/x\n"),
            (json!("true"), "\"true\"\n"),
            (json!("No"), "\"No\"\n"),
            (json!("12"), "\"12\"\n"),
            (json!(""), "\"\"\n"),
            (json!("a: b"), "\"a: b\"\n"),
            (json!("two\nlines"), "\"two\\nlines\"\n"),
            (json!("2026-01-01T00:00:00Z"), "\"2026-01-01T00:00:00Z\"\n"),
            (json!(null), "null\n"),
            (json!([]), "[]\n"),
        ] {
            assert_eq!(to_yaml(&value), yaml);
        }
    }

    #[test]
    fn lists_of_objects_are_written_in_block_style() {
        let value =
            json!([{ "id": "a", "tags": ["x", "z"], "next": { "at": 1 } }, { "id": "b", "tags": [] }]);
        let yaml = "- id: a\n  tags:\n  - x\n  - z\n  next:\n    at: 1\n- id: b\n  tags: []\n";
        assert_eq!(to_yaml(&value), yaml);
    }
}
