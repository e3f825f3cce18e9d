//! Filters that make text or numbers.

use minijinja::value::ValueKind;
use minijinja::{Error, State, Value};

use super::super::args::Args;
use super::super::containers::{is_dict, pairs};
use super::super::error::{raise, type_error, undefined};
use super::super::format::percent;
use super::super::json::{self, Layout};
use super::super::methods::string;
use super::super::py::put;
use super::super::py::{self, Text, as_float, as_int, int_value, is_seq, items, to_repr, to_str};
use super::super::{TemplateErrorKind, ops};
use super::{Filter, defined, text_of};

/// The line width of Python's `pprint`.
const PPRINT_WIDTH: usize = 80;

pub(super) const FILTERS: [(&str, Filter); 28] = [
    ("upper", |s, v, _| Ok(Value::from(text_of(s, v)?.to_uppercase()))),
    ("lower", |s, v, _| Ok(Value::from(text_of(s, v)?.to_lowercase()))),
    ("capitalize", |s, v, _| Ok(Value::from(string::capitalize(&text_of(s, v)?)))),
    ("title", |s, v, _| Ok(Value::from(title(&text_of(s, v)?)))),
    ("string", |s, v, _| if v.as_str().is_some() { Ok(v.clone()) } else { Ok(Value::from(text_of(s, v)?)) }),
    ("trim", trim),
    ("replace", replace),
    ("center", |s, v, a| {
        let width = string::width(a.int_or(0, "width", 80)?)?;
        Ok(Value::from(string::padded(&text_of(s, v)?, "center", width, ' ')))
    }),
    ("indent", indent),
    ("truncate", truncate),
    ("wordcount", |s, v, _| Ok(Value::from(words(&text_of(s, v)?)))),
    ("wordwrap", wordwrap),
    ("striptags", |s, v, _| Ok(Value::from(strip_tags(&text_of(s, v)?)))),
    ("escape", escape),
    ("e", escape),
    ("forceescape", |s, v, _| Ok(Value::from_safe_string(html(&text_of(s, v)?)))),
    ("format", format),
    ("urlencode", urlencode),
    ("xmlattr", xmlattr),
    ("filesizeformat", filesize),
    ("pprint", |s, v, _| {
        defined(s, v)?;
        Ok(Value::from(pretty(v, 0, 0)?))
    }),
    ("tojson", tojson),
    ("int", int),
    ("float", float),
    ("round", round),
    ("abs", abs),
    ("attr", |_, v, a| {
        let name = a.text(0, "name")?;
        ops::forbid_internal(v, &name)?;
        v.get_attr(&name)
    }),
    ("random", random),
];

/// Jinja's own title case: words start behind white space, hyphens and opening brackets.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = !(c.is_whitespace() || matches!(c, '-' | '(' | '{' | '[' | '<'));
    }
    out
}

fn trim(state: &mut State<'_, '_>, value: &Value, args: &Args) -> Result<Value, Error> {
    let text = text_of(state, value)?;
    let chars = args.get(0, "chars").filter(|c| !c.is_none()).map(|c| to_str(&c)).transpose()?;
    Ok(Value::from(match chars {
        Some(chars) => text.trim_matches(|c| chars.contains(c)),
        None => text.trim(),
    }))
}

fn replace(state: &mut State<'_, '_>, value: &Value, args: &Args) -> Result<Value, Error> {
    let text = text_of(state, value)?;
    let (old, new) = (to_str(&args.required(0, "old")?)?, to_str(&args.required(1, "new")?)?);
    let count = args.get(2, "count").filter(|c| !c.is_none()).and_then(|c| as_int(&c)).unwrap_or(-1);
    string::replace(&text, &old, &new, count).map(Value::from)
}

fn indent(state: &mut State<'_, '_>, value: &Value, args: &Args) -> Result<Value, Error> {
    let text = text_of(state, value)?;
    let width = args.get(0, "width").unwrap_or_else(|| Value::from(4));
    let margin = match width.as_str() {
        Some(margin) => margin.to_owned(),
        None => " ".repeat(string::width(as_int(&width).ok_or_else(|| type_error("indent wants a width"))?)?),
    };
    let (first, blank) = (args.flag_or(1, "first", false), args.flag_or(2, "blank", false));
    let mut out = Text::default();
    // Jinja appends a line end first, so that a text that ends in one keeps its empty last line.
    for (index, line) in string::lines(&(text + "\n"), false).iter().enumerate() {
        if index > 0 {
            out.push("\n")?;
        }
        if if index == 0 { first } else { blank || !line.is_empty() } {
            out.push(&margin)?;
        }
        out.push(line)?;
    }
    Ok(Value::from(out.0))
}

fn truncate(state: &mut State<'_, '_>, value: &Value, args: &Args) -> Result<Value, Error> {
    let text = text_of(state, value)?;
    let length = string::width(args.int_or(0, "length", 255)?)?;
    let kill_words = args.flag_or(1, "killwords", false);
    let end = args.text_or(2, "end", "...")?;
    let leeway = args.get(3, "leeway").filter(|l| !l.is_none()).and_then(|l| as_int(&l)).unwrap_or(5);
    let chars: Vec<char> = text.chars().collect();
    let mark = end.chars().count();
    if length < mark {
        return Err(raise(TemplateErrorKind::Value, format!("expected length >= {mark}, got {length}")));
    }
    if chars.len() <= length.saturating_add(usize::try_from(leeway).unwrap_or(0)) {
        return Ok(Value::from(text));
    }
    let cut: String = chars[..length - mark].iter().collect();
    if kill_words {
        return Ok(Value::from(cut + &end));
    }
    let whole = cut.rsplit_once(' ').map_or(cut.as_str(), |(head, _)| head);
    Ok(Value::from(whole.to_owned() + &end))
}

fn words(text: &str) -> usize {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty()).count()
}

fn wordwrap(state: &mut State<'_, '_>, value: &Value, args: &Args) -> Result<Value, Error> {
    let text = text_of(state, value)?;
    let width = string::width(args.int_or(0, "width", 79)?)?.max(1);
    let break_long = args.flag_or(1, "break_long_words", true);
    let line_end =
        args.get(2, "wrapstring").filter(|w| !w.is_none()).map_or(Ok("\n".to_owned()), |w| to_str(&w))?;
    let break_hyphens = args.flag_or(3, "break_on_hyphens", true);
    let wrapped = string::lines(&text, false)
        .iter()
        .map(|line| wrap_line(line, width, break_long, break_hyphens).join(&line_end))
        .collect::<Vec<_>>();
    Ok(Value::from(wrapped.join(&line_end)))
}

/// `textwrap.wrap` of one line, white space kept.
fn wrap_line(line: &str, width: usize, break_long: bool, break_hyphens: bool) -> Vec<String> {
    let mut chunks: Vec<Vec<char>> = Vec::new();
    let mut before = None;
    for c in line.chars() {
        let hyphen = break_hyphens
            && before == Some('-')
            && c.is_alphabetic()
            && chunks
                .last()
                .is_some_and(|chunk: &Vec<char>| chunk.len() > 2 && chunk[chunk.len() - 2].is_alphabetic());
        let same = before.is_some_and(|b: char| b.is_whitespace() == c.is_whitespace()) && !hyphen;
        match chunks.last_mut() {
            Some(chunk) if same => chunk.push(c),
            _ => chunks.push(vec![c]),
        }
        before = Some(c);
    }
    let mut lines: Vec<String> = Vec::new();
    let mut queue: std::collections::VecDeque<Vec<char>> = chunks.into();
    let is_blank = |chunk: &Vec<char>| chunk.iter().all(|c| c.is_whitespace());
    while !queue.is_empty() {
        // White space at a break is dropped, on both sides of it.
        if !lines.is_empty() && queue.front().is_some_and(is_blank) {
            queue.pop_front();
        }
        let mut current: Vec<Vec<char>> = Vec::new();
        let mut length = 0;
        while let Some(chunk) = queue.pop_front_if(|chunk| length + chunk.len() <= width) {
            length += chunk.len();
            current.push(chunk);
        }
        if let Some(chunk) = queue.front_mut().filter(|chunk| chunk.len() > width) {
            if break_long {
                let rest = chunk.split_off((width - length).max(1));
                current.extend(queue.pop_front());
                queue.push_front(rest);
            } else if current.is_empty() {
                current.extend(queue.pop_front());
            }
        }
        if current.last().is_some_and(is_blank) {
            current.pop();
        }
        if !current.is_empty() {
            lines.push(current.concat().into_iter().collect());
        }
    }
    lines
}

fn strip_tags(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find('<') {
        out.push_str(&rest[..start]);
        let (close, skip) = if rest[start..].starts_with("<!--") { ("-->", 3) } else { (">", 1) };
        if let Some(end) = rest[start..].find(close) {
            rest = &rest[start + end + skip..];
        } else {
            out.push_str(&rest[start..]);
            rest = "";
        }
    }
    out.push_str(rest);
    let plain = out.split_whitespace().collect::<Vec<_>>().join(" ");
    plain
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&#34;", "\"")
        .replace("&quot;", "\"")
        .replace("&#39;", "'")
        .replace("&amp;", "&")
}

pub(in super::super) fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    out
}

fn escape(state: &mut State<'_, '_>, value: &Value, _: &Args) -> Result<Value, Error> {
    if value.is_safe() {
        Ok(value.clone())
    } else {
        Ok(Value::from_safe_string(html(&text_of(state, value)?)))
    }
}

fn format(state: &mut State<'_, '_>, value: &Value, args: &Args) -> Result<Value, Error> {
    let text = text_of(state, value)?;
    let named = args.pairs();
    if named.is_empty() {
        return percent(&text, &Value::from(minijinja::value::Tuple::from(args.rest().to_vec())));
    }
    percent(&text, &Value::from_pairs(named))
}

fn quote_url(text: &str, keep: &str, plus: bool) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) || keep.as_bytes().contains(&b) => {
                out.push(char::from(b));
            }
            b' ' if plus => out.push('+'),
            b => put(&mut out, format_args!("%{b:02X}")),
        }
    }
    out
}

fn urlencode(state: &mut State<'_, '_>, value: &Value, _: &Args) -> Result<Value, Error> {
    defined(state, value)?;
    let entries = if is_dict(value) {
        pairs(value)
    } else if is_seq(value) {
        super::super::methods::pairs_of(value)?
    } else {
        return Ok(Value::from(quote_url(&to_str(value)?, "/", false)));
    };
    let pair = |(key, item): (Value, Value)| {
        Ok(format!("{}={}", quote_url(&to_str(&key)?, "", true), quote_url(&to_str(&item)?, "", true)))
    };
    Ok(Value::from(entries.into_iter().map(pair).collect::<Result<Vec<_>, Error>>()?.join("&")))
}

fn xmlattr(state: &mut State<'_, '_>, value: &Value, args: &Args) -> Result<Value, Error> {
    defined(state, value)?;
    let mut out = String::new();
    for (key, item) in pairs(value).into_iter().filter(|(_, item)| !item.is_none() && !item.is_undefined()) {
        let key = to_str(&key)?;
        if key.contains(|c: char| c.is_whitespace() || matches!(c, '/' | '>' | '=')) {
            return Err(raise(
                TemplateErrorKind::Value,
                format!("invalid character in attribute name: '{key}'"),
            ));
        }
        put(&mut out, format_args!(" {}=\"{}\"", html(&key), html(&to_str(&item)?)));
    }
    let spaced = args.flag_or(0, "autospace", true);
    Ok(Value::from_safe_string(if spaced { out } else { out.trim_start().to_owned() }))
}

fn filesize(state: &mut State<'_, '_>, value: &Value, args: &Args) -> Result<Value, Error> {
    defined(state, value)?;
    let binary = args.flag_or(0, "binary", false);
    let bytes = match value.as_str() {
        Some(text) => text.trim().parse().map_err(|_| type_error("filesizeformat wants a number"))?,
        None => as_float(value).ok_or_else(|| type_error("filesizeformat wants a number"))?,
    };
    let (base, units) = if binary {
        (1024.0, ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"])
    } else {
        (1000.0, ["kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"])
    };
    if (bytes - 1.0).abs() < f64::EPSILON {
        return Ok(Value::from("1 Byte"));
    }
    if bytes < base {
        return Ok(Value::from(format!("{} Bytes", bytes.trunc())));
    }
    let mut size = bytes / base;
    let mut unit = units[0];
    for next in &units[1..] {
        if size < base {
            break;
        }
        (size, unit) = (size / base, next);
    }
    Ok(Value::from(format!("{size:.1} {unit}")))
}

/// `pprint.pformat`: keys sorted, one item per line where a line would be too long.
fn pretty(value: &Value, indent: usize, trailing: usize) -> Result<String, Error> {
    if indent > py::MAX_DEPTH * 4 {
        return Err(py::too_deep());
    }
    let sorted = sorted_keys(value)?;
    let flat = to_repr(&sorted)?;
    if flat.chars().count() + indent + trailing <= PPRINT_WIDTH || !(is_seq(value) || is_dict(value)) {
        return Ok(flat);
    }
    let separator = format!(",\n{}", " ".repeat(indent + 1));
    let mut parts = Vec::new();
    if is_dict(&sorted) {
        for (key, item) in pairs(&sorted) {
            let key = to_repr(&key)?;
            parts.push(format!("{key}: {}", pretty(&item, indent + key.chars().count() + 3, 1)?));
        }
        return Ok(format!("{{{}}}", parts.join(&separator)));
    }
    for item in items(&sorted)? {
        parts.push(pretty(&item, indent + 1, 1)?);
    }
    let (open, close) = if value.is_tuple() { ("(", ")") } else { ("[", "]") };
    Ok(format!("{open}{}{close}", parts.join(&separator)))
}

fn sorted_keys(value: &Value) -> Result<Value, Error> {
    if !is_dict(value) {
        return Ok(value.clone());
    }
    let mut entries = pairs(value);
    entries.sort_by(|a, b| ops::compare(&a.0, &b.0, "<").unwrap_or(std::cmp::Ordering::Equal));
    let sorted = entries.into_iter().map(|(key, item)| Ok((key, sorted_keys(&item)?)));
    Ok(super::super::containers::Dict::value(sorted.collect::<Result<Vec<_>, Error>>()?))
}

fn tojson(_: &mut State<'_, '_>, value: &Value, args: &Args) -> Result<Value, Error> {
    let mut layout = Layout { sort_keys: true, ..Layout::plain() };
    if let Some(indent) = args.get(0, "indent") {
        layout = layout.indented(&indent)?;
    }
    let text = json::write(value, &layout)?;
    let text =
        text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026").replace('\'', "\\u0027");
    Ok(Value::from_safe_string(text))
}

fn int(_: &mut State<'_, '_>, value: &Value, args: &Args) -> Result<Value, Error> {
    if value.is_undefined() {
        return Err(undefined("an undefined value is no number"));
    }
    let default = args.get(0, "default").unwrap_or_else(|| Value::from(0));
    let base = args.int_or(1, "base", 10)?;
    let Some(text) = value.as_str() else {
        let whole = as_int(value).or_else(|| whole(as_float(value)?));
        return Ok(whole.map_or(default, int_value));
    };
    let digits = text.trim().replace('_', "").to_ascii_lowercase();
    let (sign, digits) = digits.strip_prefix('-').map_or((1, digits.as_str()), |rest| (-1, rest));
    let digits = digits.strip_prefix('+').unwrap_or(digits);
    let prefix = match base {
        16 => "0x",
        8 => "0o",
        2 => "0b",
        _ => "",
    };
    let digits = digits.strip_prefix(prefix).unwrap_or(digits);
    let radix = u32::try_from(base).ok().filter(|r| (2..=36).contains(r)).unwrap_or(10);
    let parsed = i128::from_str_radix(digits, radix).ok().map(|n| sign * n);
    let parsed = parsed.or_else(|| whole(text.trim().parse().ok()?));
    Ok(parsed.map_or(default, int_value))
}

fn whole(number: f64) -> Option<i128> {
    #[expect(clippy::cast_possible_truncation, reason = "Python cuts the fraction; the range is checked")]
    (number.abs() < 1e38).then_some(number.trunc() as i128)
}

fn float(_: &mut State<'_, '_>, value: &Value, args: &Args) -> Result<Value, Error> {
    if value.is_undefined() {
        return Err(undefined("an undefined value is no number"));
    }
    let default = args.get(0, "default").unwrap_or_else(|| Value::from(0.0));
    let parsed = match value.as_str() {
        Some(text) => text.trim().replace('_', "").parse().ok(),
        None => as_float(value),
    };
    Ok(parsed.map_or(default, Value::from))
}

fn round(_: &mut State<'_, '_>, value: &Value, args: &Args) -> Result<Value, Error> {
    let precision = i32::try_from(args.int_or(0, "precision", 0)?.clamp(-30, 30)).unwrap_or(0);
    let method = args.text_or(1, "method", "common")?;
    let number = as_float(value)
        .ok_or_else(|| type_error(format!("round wants a number, not {}", py::class_of(value))))?;
    let scale = 10_f64.powi(precision);
    Ok(match method.as_str() {
        "common" => match as_int(value) {
            Some(whole) if precision >= 0 => int_value(whole),
            Some(whole) => {
                let unit = 10_i128.pow(precision.unsigned_abs());
                let (down, rest) = (whole.div_euclid(unit), whole.rem_euclid(unit));
                let up = rest * 2 > unit || (rest * 2 == unit && down % 2 != 0);
                int_value((down + i128::from(up)) * unit)
            }
            None if precision >= 0 => {
                let digits = usize::try_from(precision).unwrap_or(0);
                Value::from(format!("{number:.digits$}").parse::<f64>().unwrap_or(number))
            }
            None => Value::from((number * scale).round_ties_even() / scale),
        },
        "ceil" => Value::from((number * scale).ceil() / scale),
        "floor" => Value::from((number * scale).floor() / scale),
        _ => return Err(raise(TemplateErrorKind::Value, "method must be common, ceil or floor")),
    })
}

fn abs(_: &mut State<'_, '_>, value: &Value, _: &Args) -> Result<Value, Error> {
    if let Some(number) = as_int(value) {
        return Ok(int_value(number.saturating_abs()));
    }
    match (value.kind(), as_float(value)) {
        (ValueKind::Number, Some(number)) => Ok(Value::from(number.abs())),
        _ => super::super::datetime::absolute(value)
            .ok_or_else(|| type_error(format!("bad operand type for abs(): '{}'", py::class_of(value)))),
    }
}

fn random(state: &mut State<'_, '_>, value: &Value, _: &Args) -> Result<Value, Error> {
    defined(state, value)?;
    let items = items(value)?;
    let draw =
        usize::try_from(uuid::Uuid::new_v4().as_u128() % u128::try_from(items.len().max(1)).unwrap_or(1));
    Ok(items.get(draw.unwrap_or(0)).cloned().unwrap_or_default())
}
