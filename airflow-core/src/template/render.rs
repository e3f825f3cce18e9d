//! The renderer of one attempt: the engine set up with Airflow's names, bounded in steps, depth and output.
//!
//! Start reading at [`Renderer::render_str`].

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, Value};
use serde_json::Value as Json;

use super::check::{unknown_filter, unknown_name};
use super::containers::{Dict, Range, from_json, to_json};
use super::context::{Lookups, Root, TemplateContext};
use super::error::{TemplateError, TemplateErrorKind, type_error};
use super::py::{MAX_DEPTH, MAX_TEXT, as_int, to_str};
use super::rewrite::{Rewritten, is_plain, plain, rewrite};
use super::{args::Args, filters, literal, methods, ops, values::Thing};

/// Steps of the engine that one rendering may take: a loop over a hundred thousand items with a few operations
/// each, well under a second.
const MAX_STEPS: u64 = 1_000_000;
/// The fewest steps a template gets, however long the text is that its loops repeat.
const MIN_STEPS: u64 = 10_000;
/// Bytes of plain text that loops may copy: with long bodies, the steps shrink to keep to it.
const MAX_REPEATED: u64 = 256 * 1024 * 1024;
/// Nesting of macro calls (four each), includes (ten each) and blocks (one each): far below what a thread's stack of
/// 2 MiB holds.
const MAX_RECURSION: usize = 120;

/// What happens when a template uses a name that does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Undefined {
    /// It is an error: Airflow's default.
    #[default]
    Strict,
    /// It prints as nothing and counts as false; only using its attributes is an error.
    Lenient,
}

/// Renders the templates of one attempt.
///
/// ```
/// use std::sync::Arc;
/// use airflow_core::template::{NoLookups, Renderer, TemplateContext};
///
/// let context = TemplateContext { dag_id: "sales".into(), ..TemplateContext::default() };
/// let renderer = Renderer::new(context, Arc::new(NoLookups));
/// assert_eq!(renderer.render_str("{{ dag.dag_id | upper }}: {{ [1, 2.0, true] }}")?, "SALES: [1, 2.0, True]");
/// # Ok::<(), airflow_core::template::TemplateError>(())
/// ```
pub struct Renderer {
    env: Environment<'static>,
    root: Value,
    native: bool,
    names: Vec<String>,
}

impl std::fmt::Debug for Renderer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Renderer")
            .field("native", &self.native)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl Renderer {
    /// Makes a renderer for one attempt.
    pub fn new(context: TemplateContext, lookups: Arc<dyn Lookups>) -> Self {
        let root = Value::from_object(Root::new(Arc::new(context), lookups));
        Self { env: environment(), root, native: false, names: Vec::new() }
    }

    /// Chooses what undefined names do.
    #[must_use]
    pub fn with_undefined(mut self, undefined: Undefined) -> Self {
        self.env.set_undefined_behavior(match undefined {
            Undefined::Strict => UndefinedBehavior::Strict,
            Undefined::Lenient => UndefinedBehavior::Lenient,
        });
        self
    }

    /// Makes [`render_value`](Self::render_value) keep the types of values (`render_template_as_native_obj`).
    #[must_use]
    pub fn with_native(mut self, native: bool) -> Self {
        self.native = native;
        self
    }

    /// Adds a value that templates can name (`user_defined_macros`).
    #[must_use]
    pub fn with_value(mut self, name: &str, value: &Json) -> Self {
        self.names.push(name.to_owned());
        self.env.add_global(name.to_owned(), from_json(value));
        self
    }

    /// Adds a function that templates can call with positional arguments (`user_defined_macros`). An `Err` fails
    /// the rendering with its text.
    #[must_use]
    pub fn with_macro<F>(mut self, name: &str, function: F) -> Self
    where
        F: Fn(&[Json]) -> Result<Json, String> + Send + Sync + 'static,
    {
        self.names.push(name.to_owned());
        let own = name.to_owned();
        let call = move |args: &[Value]| {
            if args.last().is_some_and(Value::is_kwargs) {
                return Err(type_error(format!("{own}() takes no keyword arguments")));
            }
            let args = args.iter().map(to_json).collect::<Result<Vec<_>, _>>()?;
            let result =
                function(&args).map_err(|fault| super::error::value_error(format!("{own}(): {fault}")))?;
            Ok(from_json(&result))
        };
        self.env.add_global(name.to_owned(), Thing::function(name, call));
        self
    }

    /// Adds a filter: a function of the filtered value and its further arguments (`user_defined_filters`). An `Err`
    /// fails the rendering with its text.
    #[must_use]
    pub fn with_filter<F>(mut self, name: &str, function: F) -> Self
    where
        F: Fn(&Json, &[Json]) -> Result<Json, String> + Send + Sync + 'static,
    {
        let own = name.to_owned();
        let call = move |value: &Value, rest: minijinja::value::Rest<Value>| {
            let rest = rest.iter().map(to_json).collect::<Result<Vec<_>, _>>()?;
            let result = function(&to_json(value)?, &rest);
            result
                .map(|json| from_json(&json))
                .map_err(|fault| super::error::value_error(format!("{own}: {fault}")))
        };
        self.env.add_filter(name.to_owned(), call);
        self
    }

    /// Lets templates `include` others; `load` gives the text of a template by its name.
    #[must_use]
    pub fn with_includes<F>(mut self, load: F) -> Self
    where
        F: Fn(&str) -> Option<String> + Send + Sync + 'static,
    {
        self.env.set_loader(move |name| {
            let Some(source) = load(name) else { return Ok(None) };
            let rewritten = rewrite(&source);
            let made =
                rewritten.map_err(|fault| minijinja::Error::new(ErrorKind::SyntaxError, fault.message))?;
            Ok(Some(made.text))
        });
        self
    }

    /// Renders a template to text.
    ///
    /// # Errors
    ///
    /// A [`TemplateError`] that names the line, the fault and, if it is known, the cure.
    pub fn render_str(&self, template: &str) -> Result<String, TemplateError> {
        if is_plain(template) {
            return Ok(plain(template));
        }
        self.run(template, &self.env)
    }

    /// Renders every string inside lists and the values of dicts; keys and other values stay as they are.
    ///
    /// # Errors
    ///
    /// As [`render_str`](Self::render_str); values nested too deep.
    pub fn render_value(&self, value: &Json) -> Result<Json, TemplateError> {
        self.render_at(value, 0)
    }

    fn render_at(&self, value: &Json, depth: usize) -> Result<Json, TemplateError> {
        if depth > MAX_DEPTH {
            let what = format!("lists and dicts nest deeper than {MAX_DEPTH} levels");
            return Err(TemplateError::new(TemplateErrorKind::Limit, "", 1, what));
        }
        Ok(match value {
            Json::String(template) if self.native => self.render_native(template)?,
            Json::String(template) => Json::String(self.render_str(template)?),
            Json::Array(items) => Json::Array(
                items.iter().map(|item| self.render_at(item, depth + 1)).collect::<Result<_, _>>()?,
            ),
            Json::Object(map) => {
                let pair =
                    |(key, item): (&String, &Json)| Ok((key.clone(), self.render_at(item, depth + 1)?));
                Json::Object(map.iter().map(pair).collect::<Result<_, TemplateError>>()?)
            }
            other => other.clone(),
        })
    }

    /// Renders a template to a value: a single expression keeps its type, other text is read as a Python literal
    /// if it is one (`render_template_as_native_obj`). Dates and other objects become their text.
    ///
    /// # Errors
    ///
    /// As [`render_str`](Self::render_str).
    pub fn render_native(&self, template: &str) -> Result<Json, TemplateError> {
        if template.is_empty() {
            return Ok(Json::Null);
        }
        let printed = Arc::new(Mutex::new((0_usize, Value::UNDEFINED)));
        let text = if is_plain(template) {
            plain(template)
        } else {
            let mut env = self.env.clone();
            let seen = printed.clone();
            env.set_formatter(move |out, state, value| {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                *seen = (seen.0 + 1, value.clone());
                print(out, state, value)
            });
            self.run(template, &env)?
        };
        let engine = |error: minijinja::Error| TemplateError::from_engine(template, &error);
        let (count, value) = printed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let alone = count == 1 && value.as_str().is_none() && to_str(&value).map_err(engine)? == text;
        if (count == 0 || (alone && value.is_undefined())) && text.is_empty() {
            // Nothing was printed at all, or only an `if` without its `else`.
            return Ok(if count == 0 { Json::Null } else { Json::String(text) });
        }
        if alone {
            return to_json(&value).map_err(engine);
        }
        match literal::evaluate(&text) {
            Some(value) => to_json(&value).map_err(engine),
            None => Ok(Json::String(text)),
        }
    }

    fn run(&self, template: &str, env: &Environment<'static>) -> Result<String, TemplateError> {
        let made = rewrite(template)
            .map_err(|fault| TemplateError::new(fault.kind, template, fault.line, fault.message))?;
        if let Some(error) = unknown_filter(env, template, &made.used, false) {
            return Err(error);
        }
        let limited;
        let env = if made.repeatable == 0 || steps(made.repeatable) == MAX_STEPS {
            env
        } else {
            limited = {
                let mut env = env.clone();
                env.set_fuel(Some(steps(made.repeatable)));
                env
            };
            &limited
        };
        self.run_made(&made, env).map_err(|error| self.explained(template, &made, &error))
    }

    fn run_made(&self, made: &Rewritten, env: &Environment<'_>) -> Result<String, minijinja::Error> {
        let compiled = env.template_from_named_str("template", &made.text)?;
        let mut out = Limited(Vec::new());
        compiled.render_captured_to(self.root.clone(), &mut out)?;
        Ok(String::from_utf8(out.0)
            .unwrap_or_else(|bytes| String::from_utf8_lossy(bytes.as_bytes()).into_owned()))
    }

    fn explained(&self, template: &str, made: &Rewritten, error: &minijinja::Error) -> TemplateError {
        let plain = TemplateError::from_engine(template, error);
        if plain.kind != TemplateErrorKind::Undefined {
            return plain;
        }
        // The engine knows that something is missing; the names tell what.
        unknown_name(template, &made.text, &made.used, &self.names).unwrap_or(plain)
    }
}

fn steps(repeatable: usize) -> u64 {
    let repeatable = u64::try_from(repeatable.max(1)).unwrap_or(u64::MAX);
    (MAX_REPEATED / repeatable).clamp(MIN_STEPS, MAX_STEPS)
}

/// Collects output up to the limit.
struct Limited(Vec<u8>);

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_TEXT {
            return Err(io::Error::other(format!(
                "the result is larger than {} MiB",
                MAX_TEXT / (1024 * 1024)
            )));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The engine with Python's operators, methods, filters and functions; without the names of an attempt.
pub(super) fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_formatter(print);
    env.set_fuel(Some(MAX_STEPS));
    env.set_recursion_limit(MAX_RECURSION);
    env.set_unknown_method_callback(methods::call);
    ops::register(&mut env);
    filters::register(&mut env);
    env.remove_global("debug");
    env.add_global("range", Thing::function("range", range));
    env.add_global("dict", Thing::function("dict", dict));
    env.add_global("cycler", Thing::function("cycler", cycler));
    env.add_global("joiner", Thing::function("joiner", joiner));
    env
}

fn print(
    out: &mut minijinja::Output<'_>,
    state: &mut minijinja::State<'_, '_>,
    value: &Value,
) -> Result<(), minijinja::Error> {
    let written = if matches!(state.auto_escape(), AutoEscape::None) || value.is_safe() {
        match value.as_str() {
            Some(text) => out.write_str(text),
            None => out.write_str(&to_str(value)?),
        }
    } else {
        out.write_str(&filters::html(&to_str(value)?))
    };
    written.map_err(minijinja::Error::from)
}

fn range(raw: &[Value]) -> Result<Value, minijinja::Error> {
    let args = Args::new("range", raw);
    let bounds =
        args.rest().iter().map(|bound| as_int(bound).ok_or_else(|| type_error("range() wants integers")));
    match bounds.collect::<Result<Vec<_>, _>>()?.as_slice() {
        [end] => Range::value(0, *end, 1),
        [start, end] => Range::value(*start, *end, 1),
        [start, end, step] => Range::value(*start, *end, *step),
        _ => Err(type_error("range() takes one to three arguments")),
    }
}

/// `cycler(a, b)`: `next()` gives one after the other, `current` the one that is next, `reset()` starts again.
fn cycler(raw: &[Value]) -> Result<Value, minijinja::Error> {
    let items = Args::new("cycler", raw).rest().to_vec();
    if items.is_empty() {
        return Err(type_error("cycler() wants at least one item"));
    }
    let place = Arc::new(AtomicUsize::new(0));
    let at = |place: usize, items: &[Value]| items[place % items.len()].clone();
    let (current, reset, shown) = (place.clone(), place.clone(), items.clone());
    let cycler = Thing::new("<Cycler>")
        .lookup(move |name| (name == "current").then(|| at(current.load(Ordering::Relaxed), &shown)))
        .method("next", move |_| Ok(at(place.fetch_add(1, Ordering::Relaxed), &items)))
        .method("reset", move |_| {
            reset.store(0, Ordering::Relaxed);
            Ok(Value::from(()))
        });
    Ok(cycler.value())
}

/// `joiner(", ")`: nothing when it is first called, the separator from then on.
fn joiner(raw: &[Value]) -> Result<Value, minijinja::Error> {
    let args = Args::new("joiner", raw);
    let separator = args.text_or(0, "sep", ", ")?;
    args.done()?;
    let used = AtomicUsize::new(0);
    Ok(Thing::function("joiner", move |_| {
        Ok(Value::from(if used.fetch_add(1, Ordering::Relaxed) == 0 { "" } else { &separator }))
    }))
}

fn dict(raw: &[Value]) -> Result<Value, minijinja::Error> {
    let args = Args::new("dict", raw);
    let mut pairs = args.get(0, "mapping").map_or(Ok(Vec::new()), |value| methods::pairs_of(&value))?;
    pairs.extend(args.pairs().into_iter().map(|(name, value)| (Value::from(name), value)));
    args.done()?;
    Ok(Dict::value(pairs))
}
