//! Python's two ways to format: `'%s' % x` and `'{}'.format(x)`.
//!
//! Both end in [`Spec::apply`]. Widths and precisions are bounded, so that a format cannot fill the memory.

use minijinja::value::ValueKind;
use minijinja::{Error, Value};

use super::containers::is_dict;
use super::datetime;
use super::error::{TemplateErrorKind, raise, type_error, value_error};
use super::py::{self, Text, as_float, as_int, class_of, items, to_repr, to_str};

/// The widest field and the longest precision: no real report or file name needs a wider one.
const MAX_WIDTH: usize = 10_000;

/// One format specification: `[[fill]align][sign][#][0][width][,][.precision][type]`.
#[derive(Debug, Clone)]
struct Spec {
    fill: char,
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    width: usize,
    group: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

impl Spec {
    fn plain() -> Self {
        Self {
            fill: ' ',
            align: None,
            sign: None,
            alternate: false,
            width: 0,
            group: None,
            precision: None,
            kind: None,
        }
    }

    fn parse(text: &str) -> Result<Self, Error> {
        let mut spec = Self::plain();
        let chars: Vec<char> = text.chars().collect();
        let mut at = 0;
        let is_align = |c: Option<&char>| matches!(c, Some('<' | '>' | '^' | '='));
        if is_align(chars.get(1)) {
            (spec.fill, spec.align, at) = (chars[0], Some(chars[1]), 2);
        } else if is_align(chars.first()) {
            (spec.align, at) = (Some(chars[0]), 1);
        }
        if let Some(sign @ ('+' | '-' | ' ')) = chars.get(at) {
            (spec.sign, at) = (Some(*sign), at + 1);
        }
        if chars.get(at) == Some(&'#') {
            (spec.alternate, at) = (true, at + 1);
        }
        if chars.get(at) == Some(&'0') {
            at += 1;
            if spec.align.is_none() {
                (spec.fill, spec.align) = ('0', Some('='));
            }
        }
        spec.width = digits(&chars, &mut at)?.unwrap_or(0);
        if let Some(group @ (',' | '_')) = chars.get(at) {
            (spec.group, at) = (Some(*group), at + 1);
        }
        if chars.get(at) == Some(&'.') {
            at += 1;
            spec.precision = Some(
                digits(&chars, &mut at)?.ok_or_else(|| value_error("format specifier missing precision"))?,
            );
        }
        spec.kind = chars.get(at).copied();
        if chars.len() > at + 1 {
            return Err(value_error(format!("invalid format specifier '{text}'")));
        }
        Ok(spec)
    }

    fn apply(&self, value: &Value) -> Result<String, Error> {
        let numeric = matches!(value.kind(), ValueKind::Number)
            || (value.kind() == ValueKind::Bool && self.kind.is_some_and(|k| k != 's'));
        if !numeric {
            return self.apply_text(value);
        }
        let (sign, prefix, body) = self.digits_of(value)?;
        let body = match self.group {
            Some(separator) => group(&body, separator),
            None => body,
        };
        let sign = match (sign, self.sign) {
            (true, _) => "-",
            (false, Some('+')) => "+",
            (false, Some(' ')) => " ",
            _ => "",
        };
        let head = format!("{sign}{prefix}");
        let align = self.align.unwrap_or('>');
        if align == '=' {
            let missing = self.width.saturating_sub(head.len() + body.chars().count());
            return Ok(format!("{head}{}{body}", self.fill.to_string().repeat(missing)));
        }
        Ok(self.pad(&format!("{head}{body}"), align))
    }

    fn apply_text(&self, value: &Value) -> Result<String, Error> {
        if !matches!(self.kind, None | Some('s')) {
            let (kind, class) = (self.kind.unwrap_or('s'), class_of(value));
            return Err(value_error(format!("unknown format code '{kind}' for object of type '{class}'")));
        }
        let text = to_str(value)?;
        let text = match self.precision {
            Some(precision) => text.chars().take(precision).collect(),
            None => text,
        };
        Ok(self.pad(&text, self.align.unwrap_or('<')))
    }

    fn pad(&self, text: &str, align: char) -> String {
        let missing = self.width.saturating_sub(text.chars().count());
        let fill = |count: usize| self.fill.to_string().repeat(count);
        match align {
            '<' => format!("{text}{}", fill(missing)),
            '^' => format!("{}{text}{}", fill(missing / 2), fill(missing - missing / 2)),
            _ => format!("{}{text}", fill(missing)),
        }
    }

    /// Whether the number is negative, its radix prefix and its digits.
    fn digits_of(&self, value: &Value) -> Result<(bool, &'static str, String), Error> {
        if let Some(n) = as_int(value)
            && matches!(self.kind, None | Some('d' | 'b' | 'o' | 'x' | 'X' | 'n' | 'c'))
            && (self.precision.is_none() || self.kind.is_some())
        {
            let size = n.unsigned_abs();
            let (prefix, body) = match self.kind {
                Some('b') => ("0b", format!("{size:b}")),
                Some('o') => ("0o", format!("{size:o}")),
                Some('x') => ("0x", format!("{size:x}")),
                Some('X') => ("0X", format!("{size:X}")),
                Some('c') => {
                    let c = u32::try_from(n).ok().and_then(char::from_u32);
                    (
                        "",
                        c.ok_or_else(|| raise(TemplateErrorKind::Overflow, "no such character"))?.to_string(),
                    )
                }
                _ => ("", size.to_string()),
            };
            return Ok((n < 0, if self.alternate { prefix } else { "" }, body));
        }
        let number = as_float(value).unwrap_or_default();
        let (negative, size) = (number.is_sign_negative() && !number.is_nan(), number.abs());
        if !size.is_finite() {
            return Ok((negative, "", if size.is_nan() { "nan" } else { "inf" }.to_owned()));
        }
        let precision = self.precision.unwrap_or(6);
        let body = match self.kind {
            Some('f' | 'F') => format!("{size:.precision$}"),
            Some('e') => exponential(size, precision),
            Some('E') => exponential(size, precision).to_uppercase(),
            Some('g' | 'n') => general(size, precision, self.alternate),
            Some('G') => general(size, precision, self.alternate).to_uppercase(),
            Some('%') => format!("{:.precision$}%", size * 100.0),
            None if self.precision.is_none() => py::float(size),
            None => {
                let text = general(size, precision, false);
                if text.contains(['.', 'e']) { text } else { text + ".0" }
            }
            Some(kind) => {
                let class = class_of(value);
                return Err(value_error(format!(
                    "unknown format code '{kind}' for object of type '{class}'"
                )));
            }
        };
        Ok((negative, "", body))
    }
}

fn digits(chars: &[char], at: &mut usize) -> Result<Option<usize>, Error> {
    let start = *at;
    while chars.get(*at).is_some_and(char::is_ascii_digit) {
        *at += 1;
    }
    if start == *at {
        return Ok(None);
    }
    let number = chars[start..*at].iter().collect::<String>().parse().unwrap_or(usize::MAX);
    bounded(number).map(Some)
}

fn bounded(number: usize) -> Result<usize, Error> {
    if number > MAX_WIDTH {
        return Err(raise(
            TemplateErrorKind::Limit,
            format!("a format is wider than {MAX_WIDTH} characters"),
        ));
    }
    Ok(number)
}

fn group(body: &str, separator: char) -> String {
    let end = body.find(|c: char| !c.is_ascii_digit()).unwrap_or(body.len());
    let mut out = String::new();
    for (index, c) in body[..end].chars().enumerate() {
        if index > 0 && (end - index) % 3 == 0 {
            out.push(separator);
        }
        out.push(c);
    }
    out + &body[end..]
}

fn exponential(size: f64, precision: usize) -> String {
    let text = format!("{size:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').expect("`{:e}` always prints an exponent");
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
    format!("{mantissa}e{sign}{exponent:0>2}")
}

fn general(size: f64, precision: usize, keep_zeros: bool) -> String {
    let precision = precision.max(1);
    let scientific = exponential(size, precision - 1);
    let (mantissa, exponent) = scientific.split_once('e').expect("`exponential` writes an exponent");
    let power: i64 = exponent.parse().expect("`exponential` writes a decimal exponent");
    let trim = |text: &str| {
        if keep_zeros || !text.contains('.') {
            text.to_owned()
        } else {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    };
    let digits = i64::try_from(precision).expect("a precision is bounded");
    if power < -4 || power >= digits {
        return format!("{}e{exponent}", trim(mantissa));
    }
    let places = usize::try_from(digits - 1 - power).expect("the power is below the precision");
    trim(&format!("{size:.places$}"))
}

/// `text % argument`.
///
/// # Errors
///
/// Too few or too many arguments, and arguments of the wrong type.
pub(super) fn percent(text: &str, argument: &Value) -> Result<Value, Error> {
    let mut positional =
        if argument.is_tuple() { items(argument)? } else { vec![argument.clone()] }.into_iter();
    let mut out = Text::default();
    let mut rest = text;
    let mut named = false;
    while let Some(start) = rest.find('%') {
        out.push(&rest[..start])?;
        rest = &rest[start + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            out.push("%")?;
            rest = after;
            continue;
        }
        let mut key = None;
        if let Some(after) = rest.strip_prefix('(') {
            let end = after.find(')').ok_or_else(|| value_error("incomplete format key"))?;
            key = Some(&after[..end]);
            rest = &after[end + 1..];
        }
        let (spec, length) = percent_spec(rest, &mut positional)?;
        rest = &rest[length..];
        let value = match key {
            Some(key) if is_dict(argument) => {
                named = true;
                argument.get_item(&Value::from(key)).ok().filter(|v| !v.is_undefined()).ok_or_else(|| {
                    raise(
                        TemplateErrorKind::Key,
                        format!("the format names the key '{key}', which is missing"),
                    )
                })?
            }
            Some(_) => return Err(type_error("format requires a mapping")),
            None => positional.next().ok_or_else(|| type_error("not enough arguments for format string"))?,
        };
        out.push(&percent_value(&spec, &value)?)?;
    }
    out.push(rest)?;
    if positional.next().is_some() && !named && !is_dict(argument) {
        return Err(type_error("not all arguments converted during string formatting"));
    }
    Ok(Value::from(out.0))
}

fn percent_spec(rest: &str, values: &mut impl Iterator<Item = Value>) -> Result<(Spec, usize), Error> {
    let chars: Vec<char> = rest.chars().take_while(char::is_ascii).collect();
    let mut spec = Spec { align: Some('>'), ..Spec::plain() };
    let mut at = 0;
    let mut zero = false;
    while let Some(flag @ ('-' | '+' | ' ' | '#' | '0')) = chars.get(at) {
        match flag {
            '-' => spec.align = Some('<'),
            '+' => spec.sign = Some('+'),
            ' ' => spec.sign = spec.sign.or(Some(' ')),
            '#' => spec.alternate = true,
            _ => zero = true,
        }
        at += 1;
    }
    if zero && spec.align != Some('<') {
        (spec.fill, spec.align) = ('0', Some('='));
    }
    let mut star = |at: &mut usize| -> Result<Option<usize>, Error> {
        if chars.get(*at) != Some(&'*') {
            return digits(&chars, at);
        }
        *at += 1;
        let width = values.next().as_ref().and_then(as_int).ok_or_else(|| type_error("* wants int"))?;
        bounded(usize::try_from(width.max(0)).unwrap_or(usize::MAX)).map(Some)
    };
    spec.width = star(&mut at)?.unwrap_or(0);
    if chars.get(at) == Some(&'.') {
        at += 1;
        spec.precision = Some(star(&mut at)?.unwrap_or(0));
    }
    if let Some('l' | 'L' | 'h') = chars.get(at) {
        at += 1;
    }
    spec.kind = Some(*chars.get(at).ok_or_else(|| value_error("incomplete format"))?);
    Ok((spec, at + 1))
}

fn percent_value(spec: &Spec, value: &Value) -> Result<String, Error> {
    let kind = spec.kind.unwrap_or('s');
    let text_spec = || {
        let align = spec.align.filter(|a| *a != '=').unwrap_or('>');
        Spec { kind: Some('s'), fill: ' ', align: Some(align), ..spec.clone() }
    };
    match kind {
        's' | 'r' | 'a' => {
            if value.is_undefined() {
                return Err(super::error::undefined("an argument of `%` is undefined"));
            }
            let text = if kind == 's' { to_str(value)? } else { to_repr(value)? };
            text_spec().apply(&Value::from(text))
        }
        'c' if value.as_str().is_some_and(|s| s.chars().count() == 1) => text_spec().apply(value),
        'd' | 'i' | 'u' => {
            let number = as_float(value).ok_or_else(|| wrong(kind, "a real number is required", value))?;
            #[expect(clippy::cast_possible_truncation, reason = "Python cuts the fraction as well")]
            let whole = as_int(value).unwrap_or(number.trunc() as i128);
            Spec { kind: Some('d'), precision: None, ..spec.clone() }.apply(&py::int_value(whole))
        }
        'o' | 'x' | 'X' | 'c' => {
            let whole = as_int(value).ok_or_else(|| wrong(kind, "an integer is required", value))?;
            Spec { precision: None, ..spec.clone() }.apply(&py::int_value(whole))
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            let number = as_float(value)
                .ok_or_else(|| type_error("must be real number, not ".to_owned() + class_of(value)))?;
            spec.apply(&Value::from(number))
        }
        other => Err(value_error(format!("unsupported format character '{other}'"))),
    }
}

fn wrong(kind: char, wanted: &str, value: &Value) -> Error {
    type_error(format!("%{kind} format: {wanted}, not {}", class_of(value)))
}

/// `text.format(...)`.
///
/// # Errors
///
/// Fields without an argument, and specifications that do not fit their value.
pub(super) fn braces(text: &str, places: &[Value], names: &[(String, Value)]) -> Result<Value, Error> {
    let mut out = Text::default();
    let mut auto = 0;
    fill(text, places, names, &mut auto, &mut out, 0)?;
    Ok(Value::from(out.0))
}

fn fill(
    text: &str,
    places: &[Value],
    names: &[(String, Value)],
    auto: &mut usize,
    out: &mut Text,
    depth: usize,
) -> Result<(), Error> {
    let mut rest = text;
    while let Some(start) = rest.find(['{', '}']) {
        out.push(&rest[..start])?;
        let brace = &rest[start..=start];
        rest = &rest[start + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            out.push(brace)?;
            rest = after;
            continue;
        }
        if brace == "}" {
            return Err(value_error("single '}' encountered in format string"));
        }
        if depth > 1 {
            return Err(value_error("format fields nest too deep"));
        }
        let end = field_end(rest).ok_or_else(|| value_error("single '{' encountered in format string"))?;
        let (field, spec) = rest[..end].split_once(':').unwrap_or((&rest[..end], ""));
        rest = &rest[end + 1..];
        let (path, conversion) = field.split_once('!').unwrap_or((field, ""));
        let value = lookup(path, places, names, auto)?;
        let mut written = Text::default();
        fill(spec, places, names, auto, &mut written, depth + 1)?;
        out.push(&formatted(&value, conversion, &written.0)?)?;
    }
    out.push(rest)
}

fn field_end(rest: &str) -> Option<usize> {
    let mut open = 0;
    for (index, c) in rest.char_indices() {
        match c {
            '{' => open += 1,
            '}' if open == 0 => return Some(index),
            '}' => open -= 1,
            _ => {}
        }
    }
    None
}

fn lookup(path: &str, places: &[Value], names: &[(String, Value)], auto: &mut usize) -> Result<Value, Error> {
    let end = path.find(['.', '[']).unwrap_or(path.len());
    let (head, mut tail) = path.split_at(end);
    let mut value = if head.is_empty() {
        *auto += 1;
        places.get(*auto - 1).cloned()
    } else if let Ok(index) = head.parse::<usize>() {
        places.get(index).cloned()
    } else {
        let found = names.iter().find(|(name, _)| name == head).map(|(_, value)| value.clone());
        Some(
            found
                .ok_or_else(|| raise(TemplateErrorKind::Key, format!("format() has no argument '{head}'")))?,
        )
    }
    .ok_or_else(|| raise(TemplateErrorKind::Index, "format() has too few arguments for its fields"))?;
    while !tail.is_empty() {
        let (key, after) = if let Some(inner) = tail.strip_prefix('[') {
            inner.split_once(']').ok_or_else(|| value_error("missing ']' in format string"))?
        } else {
            let inner = tail.trim_start_matches('.');
            inner.split_at(inner.find(['.', '[']).unwrap_or(inner.len()))
        };
        super::ops::forbid_internal(&value, key)?;
        let index = key.parse::<i64>().map_or_else(|_| Value::from(key), Value::from);
        value = value.get_item(&index)?;
        tail = after;
    }
    Ok(value)
}

/// `format(value, spec)` after the conversion `!r` or `!s`.
pub(super) fn formatted(value: &Value, conversion: &str, spec: &str) -> Result<String, Error> {
    if value.is_undefined() {
        return Err(super::error::undefined("an argument of format() is undefined"));
    }
    let value = match conversion {
        "" => value.clone(),
        "s" => Value::from(to_str(value)?),
        "r" | "a" => Value::from(to_repr(value)?),
        other => return Err(value_error(format!("unknown conversion specifier '{other}'"))),
    };
    if spec.is_empty() {
        return to_str(&value);
    }
    if let Some(text) = datetime::format_spec(&value, spec) {
        return text;
    }
    Spec::parse(spec)?.apply(&value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_formats_as_python_does() {
        for (format, argument, expected) in [
            ("%s-%s", Value::from(minijinja::value::Tuple::from([Value::from("a"), Value::from(1)])), "a-1"),
            (
                "%05d|%-5d|",
                Value::from(minijinja::value::Tuple::from([Value::from(42), Value::from(7)])),
                "00042|7    |",
            ),
            ("%.2f%%", Value::from(99.5), "99.50%"),
            (
                "%x %#X",
                Value::from(minijinja::value::Tuple::from([Value::from(255), Value::from(255)])),
                "ff 0XFF",
            ),
            (
                "%e %g %g",
                Value::from(minijinja::value::Tuple::from([
                    Value::from(12345.678),
                    Value::from(0.00001),
                    Value::from(100_000.0),
                ])),
                "1.234568e+04 1e-05 100000",
            ),
            ("%r", Value::from("a"), "'a'"),
            ("%+d", Value::from(5), "+5"),
        ] {
            assert_eq!(
                percent(format, &argument).expect("the format fits").as_str(),
                Some(expected),
                "{format}"
            );
        }
        assert!(percent("%s %s", &Value::from(1)).is_err());
        assert!(percent("%1000000000d", &Value::from(1)).is_err());
    }

    #[test]
    fn braces_format_as_python_does() {
        let places = [Value::from("a"), Value::from(1_234_567), Value::from(2.5)];
        for (format, expected) in [
            ("{}-{}", "a-1234567"),
            ("{1:,} {0!r:>5}", "1,234,567   'a'"),
            ("{0:*^5}|{2:08.3f}|{2:.0%}", "**a**|0002.500|250%"),
            ("{{}} {n[0]}", "{} x"),
            ("{1:e}", "1.234567e+06"),
            ("{0:{w}}|", "a   |"),
        ] {
            let names = [("n".to_owned(), Value::from(vec!["x"])), ("w".to_owned(), Value::from(4))];
            assert_eq!(
                braces(format, &places, &names).expect("the format fits").as_str(),
                Some(expected),
                "{format}"
            );
        }
    }
}
