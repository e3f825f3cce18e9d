//! What can be wrong with a template: one error that names the text, the line, the fault and the cure.
//!
//! Inside the engine a fault travels as a `minijinja::Error` whose source is a [`Raised`]; [`TemplateError`] is
//! what leaves the module. Start reading at [`TemplateError::from_engine`].

use minijinja::{Error, ErrorKind};

/// How much of a template's text an error shows: enough to recognise it, short enough for one log line.
const SHOWN_TEMPLATE_CHARS: usize = 80;

/// The class of a template fault. The comments name the Python exception Airflow raises in the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TemplateErrorKind {
    /// The text does not parse (`TemplateSyntaxError`).
    Syntax,
    /// A filter or test that does not exist (`TemplateAssertionError`).
    UnknownFilter,
    /// A name, attribute, key or method that does not exist (`UndefinedError`).
    Undefined,
    /// A Python internal such as `__class__`, which templates may not touch (`SecurityError`).
    Forbidden,
    /// A Variable that does not exist (`KeyError`; Airflow 3: `AirflowRuntimeError`).
    MissingVariable,
    /// A Connection that does not exist (`AirflowNotFoundException`).
    MissingConnection,
    /// A text that was to be JSON and is not (`JSONDecodeError`).
    NotJson,
    /// An `include`, `extends` or `import` of a template that does not exist (`TemplateNotFound`).
    TemplateNotFound,
    /// A division by zero (`ZeroDivisionError`).
    DivisionByZero,
    /// A value of the right type that makes no sense here (`ValueError`).
    Value,
    /// A value of the wrong type (`TypeError`).
    Type,
    /// A value that lacks what a filter asks of it (`AttributeError`).
    Attribute,
    /// A key that a method insisted on (`KeyError`).
    Key,
    /// An index outside a list (`IndexError`).
    Index,
    /// A number out of range (`OverflowError`).
    Overflow,
    /// One of the bounds on work, depth or size (no Python counterpart).
    Limit,
}

/// A template that could not be checked or rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("template `{template}`, line {line}: {what}{}", cure.as_deref().map(|c| format!("; {c}")).unwrap_or_default())]
pub struct TemplateError {
    /// The class of the fault.
    pub kind: TemplateErrorKind,
    /// The template's text, cut to a recognisable length.
    pub template: String,
    /// The line of the template, counted from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
    /// What to do about it, if that is known.
    pub cure: Option<String>,
}

/// A fault raised by our own operators, methods and macros while the engine runs.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub(super) struct Raised {
    pub(super) kind: TemplateErrorKind,
    pub(super) message: String,
}

/// Makes the engine error that carries `kind` out to the caller.
pub(super) fn raise(kind: TemplateErrorKind, message: impl Into<String>) -> Error {
    let message = message.into();
    Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised { kind, message })
}

pub(super) fn type_error(message: impl Into<String>) -> Error {
    raise(TemplateErrorKind::Type, message)
}

pub(super) fn value_error(message: impl Into<String>) -> Error {
    raise(TemplateErrorKind::Value, message)
}

pub(super) fn undefined(message: impl Into<String>) -> Error {
    raise(TemplateErrorKind::Undefined, message)
}

impl TemplateError {
    pub(super) fn new(kind: TemplateErrorKind, template: &str, line: usize, what: impl Into<String>) -> Self {
        Self { kind, template: cut(template), line, what: what.into(), cure: None }
    }

    pub(super) fn with_cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = Some(cure.into());
        self
    }

    /// Translates what the engine reported about `template`.
    pub(super) fn from_engine(template: &str, error: &Error) -> Self {
        let (kind, what) = classify(error);
        let mut built = Self::new(kind, template, error.line().unwrap_or(1), what);
        if kind == TemplateErrorKind::Limit {
            built.cure = Some("do the heavy work in the task and pass its result to the template".to_owned());
        }
        built
    }
}

fn classify(error: &Error) -> (TemplateErrorKind, String) {
    use TemplateErrorKind as K;
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = source {
        if let Some(raised) = current.downcast_ref::<Raised>() {
            return (raised.kind, raised.message.clone());
        }
        if let Some(inner) = current.downcast_ref::<Error>()
            && matches!(inner.kind(), ErrorKind::TemplateNotFound)
        {
            return (K::TemplateNotFound, described(inner));
        }
        source = current.source();
    }
    let detail = error.detail().unwrap_or_default();
    let kind = match error.kind() {
        ErrorKind::SyntaxError | ErrorKind::BadEscape => K::Syntax,
        ErrorKind::UnknownFilter | ErrorKind::UnknownTest => K::UnknownFilter,
        ErrorKind::UndefinedError | ErrorKind::UnknownFunction | ErrorKind::UnknownMethod => K::Undefined,
        ErrorKind::OutOfFuel | ErrorKind::WriteFailure => K::Limit,
        ErrorKind::CannotUnpack if detail.contains("wrong length") => K::Value,
        _ if detail.contains("recursion limit") || detail.contains("is too large") => K::Limit,
        _ => K::Type,
    };
    if error.kind() == ErrorKind::OutOfFuel {
        return (kind, "the template took too many steps".to_owned());
    }
    (kind, described(error))
}

fn described(error: &Error) -> String {
    match error.detail() {
        Some(detail) if error.kind() == ErrorKind::InvalidOperation => detail.to_owned(),
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

fn cut(template: &str) -> String {
    let mut shown: String = template.chars().take(SHOWN_TEMPLATE_CHARS).collect();
    if shown.len() < template.len() {
        shown.push('…');
    }
    shown
}

/// The name in `known` that `name` most likely meant, if one is near enough to be worth suggesting.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let most = (name.chars().count() / 4).max(1);
    known
        .into_iter()
        .map(|candidate| (edits(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= most)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Edits (insert, delete, replace, swap of neighbours) that lead from `a` to `b`.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested_only_if_it_is_near() {
        let known = ["ds", "logical_date", "data_interval_start", "run_id"];
        for (name, expected) in [
            ("loical_date", Some("logical_date")),
            ("logicaldate", Some("logical_date")),
            ("sd", Some("ds")),
            ("data_interval_strat", Some("data_interval_start")),
            ("warehouse", None),
        ] {
            assert_eq!(nearest(name, known), expected, "{name}");
        }
    }
}
