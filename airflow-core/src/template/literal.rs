//! `ast.literal_eval`: what native rendering does with the text it gets.
//!
//! Text that is no Python literal stays text, so every failure here is simply `None`.

use minijinja::Value;
use minijinja::value::Tuple;

use super::containers::{Dict, List};
use super::py::{MAX_DEPTH, as_float, as_int, int_value};

/// The value that `text` is a Python literal of.
pub(super) fn evaluate(text: &str) -> Option<Value> {
    if text.starts_with([' ', '\t', '\n']) {
        return None;
    }
    let mut reader = Reader { rest: text, depth: 0 };
    let value = reader.expression(true)?;
    reader.space();
    reader.rest.is_empty().then_some(value)
}

struct Reader<'t> {
    rest: &'t str,
    depth: usize,
}

impl Reader<'_> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r', '\u{c}']);
    }

    fn take(&mut self, token: &str) -> bool {
        self.space();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// One literal, or a tuple without brackets where `bare` allows it.
    fn expression(&mut self, bare: bool) -> Option<Value> {
        let first = self.single()?;
        if !bare || !self.take(",") {
            return Some(first);
        }
        let mut parts = vec![first];
        self.space();
        while !self.rest.is_empty() {
            parts.push(self.single()?);
            if !self.take(",") {
                break;
            }
            self.space();
        }
        Some(Value::from(Tuple::from(parts)))
    }

    fn single(&mut self) -> Option<Value> {
        self.space();
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let value = match self.rest.chars().next()? {
            '[' => List::value(self.items("[", "]")?.0),
            '(' => {
                let (items, trailing) = self.items("(", ")")?;
                match items.as_slice() {
                    [one] if !trailing => one.clone(),
                    _ => Value::from(Tuple::from(items)),
                }
            }
            '{' => self.braces()?,
            '\'' | '"' => self.strings()?,
            '-' | '+' => {
                let negative = self.rest.starts_with('-');
                self.rest = &self.rest[1..];
                let value = self.single()?;
                match (as_int(&value), negative) {
                    _ if value.kind() != minijinja::value::ValueKind::Number => return None,
                    (_, false) => value,
                    (Some(number), true) => int_value(number.checked_neg()?),
                    (None, true) => Value::from(-as_float(&value)?),
                }
            }
            c if c.is_ascii_digit() || c == '.' => self.number()?,
            c if c.is_alphabetic() => self.word()?,
            _ => return None,
        };
        self.depth -= 1;
        Some(value)
    }

    /// The items between brackets, and whether a comma follows the last.
    fn items(&mut self, open: &str, close: &str) -> Option<(Vec<Value>, bool)> {
        self.take(open);
        let mut items = Vec::new();
        let mut trailing = false;
        while !self.take(close) {
            if !items.is_empty() && !trailing {
                return None;
            }
            items.push(self.single()?);
            trailing = self.take(",");
        }
        Some((items, trailing))
    }

    /// A dict, or a set, which becomes a list without repetitions.
    fn braces(&mut self) -> Option<Value> {
        self.take("{");
        if self.take("}") {
            return Some(Dict::value([]));
        }
        let first = self.single()?;
        if !self.take(":") {
            let mut members = vec![first];
            while self.take(",") && !self.rest.trim_start().starts_with('}') {
                let member = self.single()?;
                if !members.contains(&member) {
                    members.push(member);
                }
            }
            return self.take("}").then(|| List::value(members));
        }
        let mut pairs = vec![(first, self.single()?)];
        while self.take(",") && !self.rest.trim_start().starts_with('}') {
            let key = self.single()?;
            if !self.take(":") {
                return None;
            }
            pairs.push((key, self.single()?));
        }
        self.take("}").then(|| Dict::value(pairs))
    }

    fn strings(&mut self) -> Option<Value> {
        let mut text = String::new();
        while let Some(quote) = self.rest.chars().next().filter(|c| matches!(c, '\'' | '"')) {
            let triple = quote.to_string().repeat(3);
            let mark = if self.rest.starts_with(&triple) { triple } else { quote.to_string() };
            let body = &self.rest[mark.len()..];
            let end = string_end(body, &mark)?;
            let literal = format!("{quote}{}{quote}", &body[..end]);
            if mark.len() == 1 && body[..end].contains('\n') {
                return None;
            }
            text += &super::rewrite::decode_string(&literal)?;
            self.rest = &body[end + mark.len()..];
            self.space();
        }
        Some(Value::from(text))
    }

    fn number(&mut self) -> Option<Value> {
        let end = self.rest.char_indices().find(|(index, c)| {
            let exponent_sign = matches!(c, '+' | '-') && self.rest[..*index].ends_with(['e', 'E']);
            !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_') || exponent_sign)
        });
        let (text, rest) = self.rest.split_at(end.map_or(self.rest.len(), |(index, _)| index));
        self.rest = rest;
        if text.ends_with('_') || text.contains("__") {
            return None;
        }
        let digits = text.replace('_', "").to_ascii_lowercase();
        let whole = match digits.get(..2) {
            Some("0x") => i128::from_str_radix(&digits[2..], 16).ok(),
            Some("0o") => i128::from_str_radix(&digits[2..], 8).ok(),
            Some("0b") => i128::from_str_radix(&digits[2..], 2).ok(),
            // Python has no decimal numbers with leading zeros, zero itself apart.
            _ if digits.starts_with('0')
                && digits.trim_start_matches('0').starts_with(|c: char| c.is_ascii_digit()) =>
            {
                if digits.contains(['.', 'e']) { None } else { return None }
            }
            _ => digits.parse().ok(),
        };
        if let Some(whole) = whole {
            return Some(int_value(whole));
        }
        let float =
            digits.bytes().all(|b| b.is_ascii_digit() || b".e+-".contains(&b)) && digits.contains(['.', 'e']);
        float.then(|| digits.parse::<f64>().ok().map(Value::from))?
    }

    fn word(&mut self) -> Option<Value> {
        let end = self.rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        match word {
            "None" => Some(Value::from(())),
            "True" => Some(Value::from(true)),
            "False" => Some(Value::from(false)),
            "u" | "U" if rest.starts_with(['\'', '"']) => self.strings(),
            "set" if rest.starts_with("()") => {
                self.rest = &rest[2..];
                Some(List::value(Vec::new()))
            }
            _ => None,
        }
    }
}

fn string_end(body: &str, mark: &str) -> Option<usize> {
    let mut escaped = false;
    for (index, c) in body.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if body[index..].starts_with(mark) => return Some(index),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::py::to_repr;

    #[test]
    fn python_literals_are_evaluated_and_everything_else_is_not() {
        for (text, expected) in [
            ("5", Some("5")),
            ("-5", Some("-5")),
            ("1_000", Some("1000")),
            ("0x1f", Some("31")),
            ("1.5e3", Some("1500.0")),
            ("007", None),
            ("00", Some("0")),
            ("2024-03-15", None),
            ("2024-10-11", None),
            ("True", Some("True")),
            ("true", None),
            ("None", Some("None")),
            ("'a' 'b'", Some("'ab'")),
            ("[1, 'a', (2,), {}]", Some("[1, 'a', (2,), {}]")),
            ("{'a': [None, 1.0]}", Some("{'a': [None, 1.0]}")),
            ("1, 2", Some("(1, 2)")),
            ("(1)", Some("1")),
            ("{1, 2, 1}", Some("[1, 2]")),
            (" 5", None),
            ("5 ", Some("5")),
            ("x5", None),
            ("[1, 2", None),
            ("hello world", None),
            ("", None),
        ] {
            let value = evaluate(text).map(|value| to_repr(&value).expect("the value prints"));
            assert_eq!(value.as_deref(), expected, "{text}");
        }
        assert!(evaluate(&"[".repeat(100_000)).is_none());
    }
}
