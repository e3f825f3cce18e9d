//! Finds what is wrong with a template before anything is rendered.

use std::sync::OnceLock;

use minijinja::Environment;

use super::context::{NAMES, REFUSED};
use super::error::{TemplateError, TemplateErrorKind, nearest};
use super::render::{Undefined, environment};
use super::rewrite::{Named, Used, is_plain, rewrite};

/// What templates can name besides the context.
const GLOBALS: [&str; 10] =
    ["range", "dict", "namespace", "cycler", "joiner", "loop", "caller", "varargs", "kwargs", "self"];

fn shared() -> &'static Environment<'static> {
    static SHARED: OnceLock<Environment<'static>> = OnceLock::new();
    SHARED.get_or_init(environment)
}

/// Checks the syntax of a template, and that the filters, tests and top-level names in it exist, without rendering.
///
/// `extra_names` are the names of user-defined macros and values. A name that the template itself asks about
/// (`x is defined`, `x | default(..)`) may be missing.
///
/// ```
/// use airflow_core::template::check;
///
/// assert!(check("{{ logical_date | ds }} {{ region }}", &["region"], &[]).is_ok());
/// let error = check("{{ loical_date }}", &[], &[]).expect_err("the name is misspelt");
/// assert!(error.to_string().contains("did you mean `logical_date`"), "{error}");
/// ```
///
/// # Errors
///
/// The first fault, with its line and, where a known name is near, that name.
pub fn check(template: &str, extra_names: &[&str], extra_filters: &[&str]) -> Result<(), TemplateError> {
    check_with(template, extra_names, extra_filters, Undefined::Strict)
}

/// The same; unknown names are no fault where undefined ones print as nothing.
pub(super) fn check_with(
    template: &str,
    extra_names: &[&str],
    extra_filters: &[&str],
    undefined: Undefined,
) -> Result<(), TemplateError> {
    if is_plain(template) {
        return Ok(());
    }
    let made = rewrite(template)
        .map_err(|fault| TemplateError::new(fault.kind, template, fault.line, fault.message))?;
    let mut used = made.used;
    used.filters.retain(|filter| !extra_filters.contains(&filter.name.as_str()));
    if let Some(error) = unknown_filter(shared(), template, &used, true) {
        return Err(error);
    }
    shared()
        .template_from_named_str("template", &made.text)
        .map_err(|e| TemplateError::from_engine(template, &e))?;
    if undefined == Undefined::Lenient {
        return Ok(());
    }
    let extra: Vec<String> = extra_names.iter().map(|name| (*name).to_owned()).collect();
    unknown_name(template, &made.text, &used, &extra).map_or(Ok(()), Err)
}

/// The first filter or test in the template that does not exist; those under a condition count if `all` do.
pub(super) fn unknown_filter(
    env: &Environment<'_>,
    template: &str,
    used: &Used,
    all: bool,
) -> Option<TemplateError> {
    let mut state = env.empty_state();
    let mut exists = |test: &str, name: &str| state.perform_test(test, &[name.into()]).unwrap_or(false);
    let fault = |what: &str, name: &str, line: usize, known: &[&str]| {
        let error = TemplateError::new(
            TemplateErrorKind::UnknownFilter,
            template,
            line,
            format!("no {what} named `{name}`"),
        );
        match nearest(name, known.iter().copied()) {
            Some(near) => error.with_cure(format!("did you mean `{near}`?")),
            None => error,
        }
    };
    let mut missing = |used: &[Named], test: &str| {
        used.iter().find(|used| (all || !used.conditional) && !exists(test, &used.name)).cloned()
    };
    if let Some(filter) = missing(&used.filters, "filter") {
        return Some(fault("filter", &filter.name, filter.line, &FILTERS));
    }
    let test = missing(&used.tests, "test")?;
    Some(fault("test", &test.name, test.line, &TESTS))
}

/// The first top-level name in the template that nothing defines. `made` is the template as rewritten.
pub(super) fn unknown_name(
    template: &str,
    made: &str,
    used: &Used,
    extra: &[String],
) -> Option<TemplateError> {
    let compiled = shared().template_from_str(made).ok()?;
    let known =
        |name: &str| NAMES.contains(&name) || GLOBALS.contains(&name) || extra.iter().any(|e| e == name);
    let undeclared = compiled.undeclared_variables(false);
    let unknown = undeclared.iter().filter(|name| !known(name) && !used.optional.contains(name));
    let (line, name) = unknown.map(|name| (line_of(template, name), name)).min()?;
    let what = format!("unknown variable `{name}`");
    let error = TemplateError::new(TemplateErrorKind::Undefined, template, line, what);
    if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| refused == name) {
        return Some(error.with_cure(*why));
    }
    let candidates = NAMES.into_iter().chain(extra.iter().map(String::as_str));
    Some(match nearest(name, candidates) {
        Some(near) => error.with_cure(format!("did you mean `{near}`?")),
        None => error.with_cure("declare it as a user-defined macro, or guard it with `| default(..)`"),
    })
}

/// The first line that holds the name as a whole word.
fn line_of(template: &str, name: &str) -> usize {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let holds = |line: &str| line.split(|c| !is_word(c)).any(|word| word == name);
    template.lines().position(holds).map_or(1, |index| index + 1)
}

/// Filters worth suggesting.
const FILTERS: [&str; 54] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "default",
    "dictsort",
    "ds",
    "ds_nodash",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "random",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "ts",
    "ts_nodash",
    "ts_nodash_with_tz",
    "unique",
    "upper",
    "urlencode",
    "wordwrap",
];
/// Tests worth suggesting.
const TESTS: [&str; 20] = [
    "boolean",
    "callable",
    "defined",
    "divisibleby",
    "equalto",
    "even",
    "false",
    "float",
    "in",
    "integer",
    "iterable",
    "mapping",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
    "true",
    "undefined",
];
