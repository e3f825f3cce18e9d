//! The methods of strings.

use minijinja::value::Tuple;
use minijinja::{Error, State, Value};

use super::super::args::Args;
use super::super::containers::List;
use super::super::error::{type_error, value_error};
use super::super::format::braces;
use super::super::py::{MAX_TEXT, Text, as_int, items, too_large};

/// Calls a method of a string.
pub(super) fn call(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    raw: &[Value],
) -> Result<Value, Error> {
    let text = value.as_str().unwrap_or_default();
    let args = Args::new("str method", raw);
    if name == "format" {
        return braces(text, args.rest(), &args.pairs());
    }
    if name == "format_map" {
        let pairs = super::list::pairs_of(&args.required(0, "mapping")?)?;
        let named: Vec<_> = pairs.into_iter().map(|(k, v)| (k.to_string(), v)).collect();
        return braces(text, &[], &named);
    }
    let found = match cased(text, name) {
        Some(cased) => Some(Value::from(cased)),
        None => match shaped(text, name, &args)? {
            Some(value) => Some(value),
            None => searched(text, name, &args)?,
        },
    };
    match found {
        Some(found) => {
            args.done()?;
            Ok(found)
        }
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, raw),
    }
}

fn cased(text: &str, name: &str) -> Option<String> {
    Some(match name {
        "upper" => text.to_uppercase(),
        "lower" | "casefold" => text.to_lowercase(),
        "title" => title(text),
        "capitalize" => capitalize(text),
        "swapcase" => {
            let swap = |c: char| {
                if c.is_uppercase() {
                    c.to_lowercase().collect::<String>()
                } else {
                    c.to_uppercase().collect()
                }
            };
            text.chars().map(swap).collect()
        }
        _ => return None,
    })
}

/// `str.title()`: every letter behind a non-letter is upper case, the rest lower.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphabetic();
    }
    out
}

/// `str.capitalize()`.
pub(in super::super) fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return String::new() };
    first.to_uppercase().chain(chars.as_str().to_lowercase().chars()).collect()
}

fn shaped(text: &str, name: &str, args: &Args) -> Result<Option<Value>, Error> {
    let value = match name {
        "strip" | "lstrip" | "rstrip" => {
            let chars = args.get(0, "chars").filter(|c| !c.is_none());
            let set: Option<Vec<char>> = match &chars {
                Some(c) => Some(
                    c.as_str().ok_or_else(|| type_error("strip arg must be None or str"))?.chars().collect(),
                ),
                None => None,
            };
            let drop = |c: char| set.as_ref().map_or_else(|| c.is_whitespace(), |set| set.contains(&c));
            Value::from(match name {
                "strip" => text.trim_matches(drop),
                "lstrip" => text.trim_start_matches(drop),
                _ => text.trim_end_matches(drop),
            })
        }
        "center" | "ljust" | "rjust" | "zfill" => {
            let width = width(args.int(0, "width")?)?;
            let fill = if name == "zfill" { "0".to_owned() } else { args.text_or(1, "fillchar", " ")? };
            let fill = fill
                .chars()
                .next()
                .ok_or_else(|| type_error("the fill character must be exactly one character long"))?;
            Value::from(padded(text, name, width, fill))
        }
        "replace" => {
            let (old, new) = (args.text(0, "old")?, args.text(1, "new")?);
            Value::from(replace(text, &old, &new, args.int_or(2, "count", -1)?)?)
        }
        "split" | "rsplit" => {
            let separator = args.get(0, "sep").filter(|s| !s.is_none());
            let most = usize::try_from(args.int_or(1, "maxsplit", -1)?).unwrap_or(usize::MAX);
            let parts = match &separator {
                None => split_space(text, most, name == "rsplit"),
                Some(separator) => {
                    let separator = separator.as_str().ok_or_else(|| type_error("must be str or None"))?;
                    split_at(text, separator, most, name == "rsplit")?
                }
            };
            List::value(parts.into_iter().map(Value::from).collect())
        }
        "splitlines" => {
            let keep = args.flag_or(0, "keepends", false);
            List::value(lines(text, keep).into_iter().map(Value::from).collect())
        }
        "partition" | "rpartition" => partition(text, &args.text(0, "sep")?, name == "partition"),
        "removeprefix" => {
            let prefix = args.text(0, "prefix")?;
            Value::from(text.strip_prefix(&prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let suffix = args.text(0, "suffix")?;
            Value::from(text.strip_suffix(&suffix).unwrap_or(text))
        }
        "expandtabs" => Value::from(text.replace('\t', &" ".repeat(width(args.int_or(0, "tabsize", 8)?)?))),
        "join" => join(text, &args.required(0, "iterable")?)?,
        _ => return Ok(None),
    };
    Ok(Some(value))
}

fn partition(text: &str, separator: &str, first: bool) -> Value {
    let found = if first { text.split_once(separator) } else { text.rsplit_once(separator) };
    let parts = match (found, first) {
        (Some((head, tail)), _) => [head, separator, tail],
        (None, true) => [text, "", ""],
        (None, false) => ["", "", text],
    };
    Value::from(Tuple::from(parts.map(Value::from)))
}

/// A width, bounded by what may be printed at all.
pub(in super::super) fn width(width: i128) -> Result<usize, Error> {
    usize::try_from(width.max(0)).ok().filter(|w| *w <= MAX_TEXT / 4).ok_or_else(too_large)
}

pub(in super::super) fn padded(text: &str, style: &str, width: usize, fill: char) -> String {
    let missing = width.saturating_sub(text.chars().count());
    let pad = |count: usize| fill.to_string().repeat(count);
    match style {
        "ljust" => format!("{text}{}", pad(missing)),
        "rjust" => format!("{}{text}", pad(missing)),
        "zfill" => match text.strip_prefix(['+', '-']) {
            Some(digits) => format!("{}{}{digits}", &text[..1], pad(missing)),
            None => format!("{}{text}", pad(missing)),
        },
        // Python gives the odd character to the left if the width is odd.
        _ => {
            let left = missing / 2 + (missing & width & 1);
            format!("{}{text}{}", pad(left), pad(missing - left))
        }
    }
}

/// `text.replace(old, new, count)`.
pub(in super::super) fn replace(text: &str, old: &str, new: &str, count: i128) -> Result<String, Error> {
    let most = usize::try_from(count).unwrap_or(usize::MAX);
    let hits = text.matches(old).count().min(most);
    if text.len() + hits.saturating_mul(new.len()) > MAX_TEXT {
        return Err(too_large());
    }
    Ok(text.replacen(old, new, most))
}

fn split_space(text: &str, most: usize, from_right: bool) -> Vec<String> {
    let mut parts = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let cut = if from_right { rest.rfind(char::is_whitespace) } else { rest.find(char::is_whitespace) };
        let Some(cut) = cut.filter(|_| parts.len() < most) else { break };
        let size = rest[cut..].chars().next().map_or(1, char::len_utf8);
        let (part, left) = if from_right {
            (&rest[cut + size..], rest[..cut].trim_end())
        } else {
            (&rest[..cut], rest[cut + size..].trim_start())
        };
        parts.push(part.to_owned());
        rest = left;
    }
    if !rest.is_empty() {
        parts.push(rest.to_owned());
    }
    if from_right {
        parts.reverse();
    }
    parts
}

fn split_at(text: &str, separator: &str, most: usize, from_right: bool) -> Result<Vec<String>, Error> {
    if separator.is_empty() {
        return Err(value_error("empty separator"));
    }
    let most = most.saturating_add(1);
    if from_right {
        let mut parts: Vec<String> = text.rsplitn(most, separator).map(str::to_owned).collect();
        parts.reverse();
        return Ok(parts);
    }
    Ok(text.splitn(most, separator).map(str::to_owned).collect())
}

/// `str.splitlines()`.
pub(in super::super) fn lines(text: &str, keep_ends: bool) -> Vec<String> {
    let mut parts = Vec::new();
    let mut rest = text;
    let is_end = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    while let Some(cut) = rest.find(is_end) {
        let size = if rest[cut..].starts_with("\r\n") {
            2
        } else {
            rest[cut..].chars().next().map_or(1, char::len_utf8)
        };
        parts.push(rest[..if keep_ends { cut + size } else { cut }].to_owned());
        rest = &rest[cut + size..];
    }
    if !rest.is_empty() {
        parts.push(rest.to_owned());
    }
    parts
}

fn join(separator: &str, values: &Value) -> Result<Value, Error> {
    let mut out = Text::default();
    for (index, item) in items(values)?.iter().enumerate() {
        if index > 0 {
            out.push(separator)?;
        }
        let class = super::class_of(item);
        out.push(item.as_str().ok_or_else(|| {
            type_error(format!("sequence item {index}: expected str instance, {class} found"))
        })?)?;
    }
    Ok(Value::from(out.0))
}

fn searched(text: &str, name: &str, args: &Args) -> Result<Option<Value>, Error> {
    if !matches!(name, "find" | "rfind" | "index" | "rindex" | "count" | "startswith" | "endswith") {
        return Ok(None);
    }
    let wanted = args.required(0, "sub")?;
    let (offset, part) = window(text, args)?;
    if matches!(name, "startswith" | "endswith") {
        let options = if wanted.as_str().is_some() { vec![wanted] } else { items(&wanted)? };
        let mut hit = false;
        for option in &options {
            let option =
                option.as_str().ok_or_else(|| type_error(format!("{name} wants a str or a tuple of str")))?;
            hit |= if name == "startswith" { part.starts_with(option) } else { part.ends_with(option) };
        }
        return Ok(Some(Value::from(hit)));
    }
    let wanted = wanted.as_str().ok_or_else(|| type_error("must be str"))?;
    if name == "count" {
        return Ok(Some(Value::from(part.matches(wanted).count())));
    }
    let found = if name.starts_with('r') { part.rfind(wanted) } else { part.find(wanted) };
    match found {
        Some(at) => Ok(Some(Value::from(offset + part[..at].chars().count()))),
        None if name.ends_with("index") => Err(value_error("substring not found")),
        None => Ok(Some(Value::from(-1))),
    }
}

/// The part of the text that `start` and `end` choose, and how many characters stand before it.
fn window<'t>(text: &'t str, args: &Args) -> Result<(usize, &'t str), Error> {
    let length = i128::try_from(text.chars().count()).unwrap_or(i128::MAX);
    let bound = |place: usize, name: &str, default: i128| -> Result<usize, Error> {
        let given = args.get(place, name).filter(|v| !v.is_none());
        let given = given.map_or(Ok(default), |v| {
            as_int(&v).ok_or_else(|| type_error("slice indices must be integers"))
        })?;
        let at = if given < 0 { given + length } else { given };
        Ok(usize::try_from(at.clamp(0, length)).unwrap_or(0))
    };
    let (start, end) = (bound(1, "start", 0)?, bound(2, "end", length)?);
    let byte = |index: usize| text.char_indices().nth(index).map_or(text.len(), |(at, _)| at);
    let from = byte(start);
    Ok((start, &text[from..byte(end).max(from)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitting_follows_python() {
        assert_eq!(split_space("  a  b c ", 1, false), ["a", "b c"]);
        assert_eq!(split_space("  a  b c ", 1, true), ["a  b", "c"]);
        assert_eq!(split_at("a,b,c", ",", 1, true).expect("the separator is not empty"), ["a,b", "c"]);
        assert!(split_at("a", "", 1, false).is_err());
        assert_eq!(lines("a\r\nb\n\nc", false), ["a", "b", "", "c"]);
    }

    #[test]
    fn padding_follows_python() {
        assert_eq!(padded("ab", "center", 5, '*'), "**ab*");
        assert_eq!(padded("a", "center", 4, '*'), "*a**");
        assert_eq!(padded("-5", "zfill", 4, '0'), "-005");
    }
}
