//! Splits the inside of one tag into tokens, by Jinja's rules, and decodes string literals by Python's.

use super::Fault;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Name,
    Int,
    Float,
    Str,
    Op,
}

/// One token, with the white space before it: re-emitting both keeps every line where it was.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token<'a> {
    pub(super) space: &'a str,
    pub(super) kind: Kind,
    pub(super) text: &'a str,
    pub(super) line: usize,
}

/// The tokens of one tag, and how it ended.
pub(super) struct Tag<'a> {
    pub(super) tokens: Vec<Token<'a>>,
    /// The white space before the closing delimiter.
    pub(super) tail: &'a str,
    /// The closing delimiter with its modifier: `}}`, `-}}`, `%}`, `-%}` or `+%}`.
    pub(super) close: &'a str,
    /// Bytes read, closing delimiter included.
    pub(super) length: usize,
}

const OPERATORS: [&str; 27] = [
    "**", "//", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "<", ">", "=", "(", ")", "[", "]", "{",
    "}", ",", ":", ".", "|", ";", "?",
];

/// Reads the tag that starts at the beginning of `source` (behind the opening delimiter) up to `end`.
pub(super) fn read_tag<'a>(source: &'a str, end: &'static str, mut line: usize) -> Result<Tag<'a>, Fault> {
    let mut tokens: Vec<Token<'a>> = Vec::new();
    let mut at = 0;
    let mut open: Vec<char> = Vec::new();
    loop {
        let rest = &source[at..];
        let space = &rest[..rest.len() - rest.trim_start().len()];
        line += space.matches('\n').count();
        let rest = &rest[space.len()..];
        at += space.len();
        if open.is_empty()
            && let Some(close) = closing(rest, end)
        {
            return Ok(Tag { tokens, tail: space, close, length: at + close.len() });
        }
        if rest.is_empty() {
            return Err(Fault::syntax(line, format!("the tag is never closed: `{end}` is missing")));
        }
        let after_dot = tokens.last().is_some_and(|t| t.kind == Kind::Op && t.text == ".");
        let (kind, length) = next(rest, after_dot).ok_or_else(|| unexpected(rest, line))?;
        let text = &rest[..length];
        track(&mut open, text, kind, line)?;
        tokens.push(Token { space, kind, text, line });
        line += text.matches('\n').count();
        at += length;
    }
}

fn closing<'a>(rest: &'a str, end: &str) -> Option<&'a str> {
    let unmodified = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    unmodified.starts_with(end).then(|| &rest[..rest.len() - unmodified.len() + end.len()])
}

fn unexpected(rest: &str, line: usize) -> Fault {
    match rest.chars().next() {
        Some('\'' | '"') => Fault::syntax(line, "a string is never closed"),
        Some(c) => Fault::syntax(line, format!("unexpected character `{c}`")),
        None => Fault::syntax(line, "unexpected end of template"),
    }
}

fn track(open: &mut Vec<char>, text: &str, kind: Kind, line: usize) -> Result<(), Fault> {
    if kind != Kind::Op {
        return Ok(());
    }
    match text {
        "(" => open.push(')'),
        "[" => open.push(']'),
        "{" => open.push('}'),
        ")" | "]" | "}" => {
            let expected = open.pop();
            if expected.is_none_or(|c| !text.starts_with(c)) {
                let wanted = expected.map_or_else(String::new, |c| format!(", expected `{c}`"));
                return Err(Fault::syntax(line, format!("unexpected `{text}`{wanted}")));
            }
        }
        _ => {}
    }
    Ok(())
}

fn next(rest: &str, after_dot: bool) -> Option<(Kind, usize)> {
    let first = rest.chars().next()?;
    if first == '\'' || first == '"' {
        return string_length(rest, first).map(|length| (Kind::Str, length));
    }
    if first.is_ascii_digit() {
        if after_dot {
            let length = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            return Some((Kind::Int, length));
        }
        return Some(number(rest));
    }
    if first == '_' || first.is_alphabetic() {
        let length = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
        return Some((Kind::Name, length));
    }
    OPERATORS.iter().find(|op| rest.starts_with(**op)).map(|op| (Kind::Op, op.len()))
}

fn string_length(rest: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (index, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(index + 1),
            _ => {}
        }
    }
    None
}

fn number(rest: &str) -> (Kind, usize) {
    let digits =
        |text: &str, ok: fn(char) -> bool| text.find(|c: char| c != '_' && !ok(c)).unwrap_or(text.len());
    let lower = rest.get(..2).unwrap_or_default().to_ascii_lowercase();
    let radix: Option<fn(char) -> bool> = match lower.as_str() {
        "0x" => Some(|c| c.is_ascii_hexdigit()),
        "0o" => Some(|c| ('0'..='7').contains(&c)),
        "0b" => Some(|c| c == '0' || c == '1'),
        _ => None,
    };
    if let Some(ok) = radix {
        return (Kind::Int, 2 + digits(&rest[2..], ok));
    }
    let decimal: fn(char) -> bool = |c| c.is_ascii_digit();
    let mut length = digits(rest, decimal);
    let mut kind = Kind::Int;
    let fraction = &rest[length..];
    if fraction.starts_with('.') && fraction[1..].starts_with(decimal) {
        length += 1 + digits(&fraction[1..], decimal);
        kind = Kind::Float;
    }
    let exponent = &rest[length..];
    if exponent.starts_with(['e', 'E']) {
        let sign = usize::from(exponent[1..].starts_with(['+', '-']));
        if exponent[1 + sign..].starts_with(decimal) {
            length += 1 + sign + digits(&exponent[1 + sign..], decimal);
            kind = Kind::Float;
        }
    }
    (kind, length)
}

/// An integer literal as plain decimal digits; as it was if it does not fit 128 bits.
pub(super) fn plain_int(text: &str) -> String {
    let digits = text.replace('_', "").to_ascii_lowercase();
    let parsed = match digits.get(..2) {
        Some("0x") => i128::from_str_radix(&digits[2..], 16),
        Some("0o") => i128::from_str_radix(&digits[2..], 8),
        Some("0b") => i128::from_str_radix(&digits[2..], 2),
        _ => digits.parse(),
    };
    parsed.map_or(digits, |n| n.to_string())
}

/// The text that a string literal stands for: Python's escapes, unknown ones kept as they are.
pub(super) fn decode(literal: &str) -> Option<String> {
    let inner = &literal[1..literal.len() - 1];
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let escape = chars.next()?;
        match escape {
            '\n' => {}
            '\\' | '\'' | '"' => out.push(escape),
            'a' => out.push('\u{7}'),
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'v' => out.push('\u{b}'),
            '0'..='7' => {
                let mut code = escape.to_digit(8)?;
                for _ in 0..2 {
                    let Some(digit) = chars.peek().and_then(|c| c.to_digit(8)) else { break };
                    code = code * 8 + digit;
                    chars.next();
                }
                out.push(char::from_u32(code)?);
            }
            'x' | 'u' | 'U' => {
                let length = match escape {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                let hex: String = chars.by_ref().take(length).collect();
                let code = u32::from_str_radix(&hex, 16).ok().filter(|_| hex.len() == length)?;
                out.push(char::from_u32(code)?);
            }
            other => {
                out.push('\\');
                out.push(other);
            }
        }
    }
    Some(out)
}

/// A literal of the engine for `text`; line breaks stay line breaks, as `lines` of the source have them.
pub(super) fn encode(text: &str, lines: usize) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    let mut lines = lines;
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' if lines > 0 => {
                lines -= 1;
                out.push('\n');
            }
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => out.push(c),
        }
    }
    out.push('"');
    out.push_str(&"\n".repeat(lines));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn string_literals_decode_as_python_decodes_them() {
        for (literal, expected) in [
            (r"'a\nb'", "a\nb"),
            (r"'\d+\.'", r"\d+\."),
            (r"'\x41\u00e9\101'", "AéA"),
            (r#""it's""#, "it's"),
            (r"'\\n'", r"\n"),
        ] {
            assert_eq!(decode(literal).as_deref(), Some(expected), "{literal}");
        }
        assert_eq!(decode(r"'\xZZ'"), None);
    }

    #[test]
    fn a_tag_ends_at_its_delimiter_but_not_inside_brackets_or_strings() {
        for (source, end, tokens, length) in [
            (" ds }} x", "}}", vec!["ds"], 6),
            ("{'a':{}}}}!", "}}", vec!["{", "'a'", ":", "{", "}", "}"], 10),
            ("'}}' -}}", "}}", vec!["'}}'"], 8),
            ("a.0.1e3 }}", "}}", vec!["a", ".", "0", ".", "1", "e3"], 10),
            ("1_0.5e-3**2 +%}", "%}", vec!["1_0.5e-3", "**", "2"], 15),
        ] {
            let tag = read_tag(source, end, 1).expect(source);
            assert_eq!(tag.tokens.iter().map(|t| t.text).collect::<Vec<_>>(), tokens, "{source}");
            assert_eq!(tag.length, length, "{source}");
        }
        assert!(read_tag(" ds }", "}}", 1).is_err());
        assert!(read_tag(" (ds] }}", "}}", 1).is_err());
    }
}
