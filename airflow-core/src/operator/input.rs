//! Inputs of a task: constants, results from upstream, elements of a mapped collection.
//!
//! An [`In<T>`] knows where its value comes from ([`InputRef`], which makes the edges of the dag) and how to read it
//! from the values that were fetched for one attempt ([`Inputs`]).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use crate::id::TaskIdx;
use crate::template::{Renderer, Template as _};
use crate::xcom::{Data, XComValue};

use super::context::TaskContext;

/// Names one mapping (`d.map(..)` or a mapped group) inside the definition of a dag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScopeId(pub(crate) u32);

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum InputRef {
    /// The result of a task; inside a mapped group, of the same instance.
    Output(TaskIdx),
    /// The results of all instances of a mapped task, as a list.
    Collected(TaskIdx),
    /// The element that this instance of a mapping stands for.
    Element(ScopeId),
}

/// Why an input has no value. Not retryable: the dag or the types must change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// The upstream task stored nothing.
    #[error(
        "task `{task}` left no result; take `Option<{wanted}>` if it may be skipped, fail or return nothing"
    )]
    Missing {
        /// The upstream task.
        task: String,
        /// The type that was asked for.
        wanted: &'static str,
    },
    /// The stored value does not fit the type.
    #[error("the value of {place} is no `{wanted}`: {error}")]
    Mismatch {
        /// Which value.
        place: String,
        /// The type that was asked for.
        wanted: &'static str,
        /// What serde says.
        error: String,
    },
    /// The attempt does not carry the value: it belongs to another mapping.
    #[error("an element of a mapping is used by a task outside of it")]
    ForeignElement,
    /// A template could not be rendered.
    #[error("{0}")]
    Template(String),
}

/// The values that were fetched for one attempt.
#[derive(Default, Clone)]
pub struct Inputs {
    /// Results of tasks; `None` if there is none.
    pub outputs: BTreeMap<TaskIdx, Option<Arc<XComValue>>>,
    /// Results of all instances of mapped tasks, by map index.
    pub collected: BTreeMap<TaskIdx, Vec<Arc<XComValue>>>,
    /// The elements of the mappings that the task is in.
    pub elements: BTreeMap<ScopeId, Value>,
    /// The names of the upstream tasks, for errors.
    pub names: BTreeMap<TaskIdx, String>,
    /// Renders templates among the inputs.
    pub renderer: Option<Arc<Renderer>>,
}

impl Inputs {
    fn name(&self, task: TaskIdx) -> String {
        self.names.get(&task).cloned().unwrap_or_else(|| format!("#{}", task.0))
    }

    pub(crate) fn output<T: Data>(&self, task: TaskIdx) -> Result<T, InputError> {
        match self.outputs.get(&task) {
            Some(Some(value)) => decode(value, || format!("task `{}`", self.name(task))),
            _ => Err(InputError::Missing { task: self.name(task), wanted: short_type_name::<T>() })
                .or_else(|missing| decode_nothing().ok_or(missing)),
        }
    }

    pub(crate) fn optional<T: Data>(&self, task: TaskIdx) -> Result<Option<T>, InputError> {
        match self.outputs.get(&task) {
            Some(Some(value)) => decode(value, || format!("task `{}`", self.name(task))).map(Some),
            _ => Ok(None),
        }
    }

    pub(crate) fn collected<T: Data>(&self, task: TaskIdx) -> Result<Vec<T>, InputError> {
        let values = self.collected.get(&task).map_or(&[][..], Vec::as_slice);
        let place = |index| format!("task `{}` [{index}]", self.name(task));
        values.iter().enumerate().map(|(index, value)| decode(value, || place(index))).collect()
    }

    pub(crate) fn element<T: Data>(&self, scope: ScopeId) -> Result<T, InputError> {
        let value = self.elements.get(&scope).ok_or(InputError::ForeignElement)?;
        T::deserialize(value).map_err(|error| InputError::Mismatch {
            place: "the mapped element".into(),
            wanted: short_type_name::<T>(),
            error: error.to_string(),
        })
    }
}

impl fmt::Debug for Inputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inputs")
            .field("outputs", &self.outputs)
            .field("elements", &self.elements)
            .finish_non_exhaustive()
    }
}

/// Reads `()` where nothing was stored.
fn decode_nothing<T: Data>() -> Option<T> {
    let unit = std::any::TypeId::of::<T>() == std::any::TypeId::of::<()>();
    let untyped = std::any::TypeId::of::<T>() == std::any::TypeId::of::<Value>();
    if unit || untyped { serde_json::from_value(Value::Null).ok() } else { None }
}

fn decode<T: Data>(value: &XComValue, place: impl FnOnce() -> String) -> Result<T, InputError> {
    value.decode().map_err(|error| InputError::Mismatch {
        place: place(),
        wanted: short_type_name::<T>(),
        error: error.to_string(),
    })
}

/// A type name without the paths, as a user would write it.
pub(crate) fn short_type_name<T>() -> &'static str {
    let full = std::any::type_name::<T>();
    if full.contains('<') { full } else { full.rsplit("::").next().unwrap_or(full) }
}

type Read<T> = Arc<dyn Fn(&Inputs) -> Result<T, InputError> + Send + Sync>;

/// An input of type `T`. Made by [`IntoIn`] from a constant, the handle of a task, or an element of a mapping.
pub struct In<T> {
    refs: Vec<InputRef>,
    templates: Vec<String>,
    builder: Option<u64>,
    read: Read<T>,
}

impl<T: 'static> In<T> {
    /// An input that reads what `refs` name.
    pub(crate) fn wired(
        builder: Option<u64>,
        refs: Vec<InputRef>,
        read: impl Fn(&Inputs) -> Result<T, InputError> + Send + Sync + 'static,
    ) -> Self {
        Self { refs, templates: Vec::new(), builder, read: Arc::new(read) }
    }

    /// Where the value comes from; nothing for a constant.
    pub fn refs(&self) -> impl Iterator<Item = InputRef> + '_ {
        self.refs.iter().copied()
    }

    /// The templates that are rendered for it.
    pub fn templates(&self) -> &[String] {
        &self.templates
    }

    /// Which definition the handles in it belong to.
    pub(crate) fn builder(&self) -> Option<u64> {
        self.builder
    }

    /// The value for this attempt.
    ///
    /// # Errors
    ///
    /// [`InputError`] if upstream left nothing, or a value of another type.
    pub fn get(&self, cx: &TaskContext) -> Result<T, InputError> {
        (self.read)(cx.inputs())
    }

    /// The same input seen through a function, which runs in the attempt that reads it.
    pub fn map<U: 'static>(self, f: impl Fn(T) -> U + Send + Sync + 'static) -> In<U> {
        let read = self.read;
        In {
            refs: self.refs,
            templates: self.templates,
            builder: self.builder,
            read: Arc::new(move |inputs| read(inputs).map(&f)),
        }
    }
}

impl<T> Clone for In<T> {
    fn clone(&self) -> Self {
        Self {
            refs: self.refs.clone(),
            templates: self.templates.clone(),
            builder: self.builder,
            read: Arc::clone(&self.read),
        }
    }
}

impl<T> fmt::Debug for In<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("In").field(&self.refs).finish()
    }
}

/// What can be given where a task wants a `T`: a `T`, the handle of a task that returns one, an element of a mapping
/// over them; for `Vec<T>` also all results of a mapped task, for `Option<T>` a task that may be skipped.
#[diagnostic::on_unimplemented(
    message = "this task input wants `{T}` but was given `{Self}`",
    label = "not a `{T}`",
    note = "pass a `{T}`, or the handle of a task that returns one",
    note = "a type of your own must be `Clone`, `Serialize` and `Deserialize` to be passed as a constant"
)]
pub trait IntoIn<T> {
    /// As an input.
    fn into_in(self) -> In<T>;
}

#[diagnostic::do_not_recommend]
impl<T: Data + Clone> IntoIn<T> for T {
    fn into_in(self) -> In<T> {
        In::wired(None, Vec::new(), move |_| Ok(self.clone()))
    }
}

impl IntoIn<String> for &str {
    fn into_in(self) -> In<String> {
        self.to_owned().into_in()
    }
}

impl<T> IntoIn<T> for In<T> {
    fn into_in(self) -> In<T> {
        self
    }
}

/// Text that is rendered for each attempt, such as `template("/in/{{ ds }}.csv")`.
#[derive(Debug, Clone)]
pub struct TemplateText(String);

/// Text that is rendered for each attempt: `load::call(template("/in/{{ ds }}.csv"))`.
pub fn template(text: impl Into<String>) -> TemplateText {
    TemplateText(text.into())
}

impl IntoIn<String> for TemplateText {
    fn into_in(self) -> In<String> {
        let text = self.0.clone();
        let read = move |inputs: &Inputs| match &inputs.renderer {
            Some(renderer) => text.render(renderer).map_err(|error| InputError::Template(error.to_string())),
            None => Err(InputError::Template("this attempt has no template context".into())),
        };
        In { refs: Vec::new(), templates: vec![self.0], builder: None, read: Arc::new(read) }
    }
}

/// One element of a mapped collection, inside `d.map(collection, |element| ..)`.
pub struct Elem<T> {
    scope: ScopeId,
    builder: u64,
    read: Read<T>,
}

impl<T: Data> Elem<T> {
    pub(crate) fn new(scope: ScopeId, builder: u64) -> Self {
        Self { scope, builder, read: Arc::new(move |inputs| inputs.element(scope)) }
    }
}

impl<T: 'static> Elem<T> {
    /// The element seen through a function, which runs in the mapped instance.
    pub fn map<U: 'static>(self, f: impl Fn(T) -> U + Send + Sync + 'static) -> Elem<U> {
        let read = self.read;
        Elem { scope: self.scope, builder: self.builder, read: Arc::new(move |inputs| read(inputs).map(&f)) }
    }
}

impl<A: Data, B: Data> Elem<(A, B)> {
    /// The two halves of a pair, as elements of their own.
    pub fn split(self) -> (Elem<A>, Elem<B>) {
        (self.clone().map(|(a, _)| a), self.map(|(_, b)| b))
    }
}

impl<T: 'static> IntoIn<T> for Elem<T> {
    fn into_in(self) -> In<T> {
        In {
            refs: vec![InputRef::Element(self.scope)],
            templates: Vec::new(),
            builder: Some(self.builder),
            read: self.read,
        }
    }
}

impl<T> Clone for Elem<T> {
    fn clone(&self) -> Self {
        Self { scope: self.scope, builder: self.builder, read: Arc::clone(&self.read) }
    }
}

impl<T> fmt::Debug for Elem<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Elem").field(&self.scope).finish()
    }
}

/// What a mapping runs over. Its length is known once the tasks it names are done.
#[derive(Debug, Clone, PartialEq)]
pub enum Expand {
    /// A list written into the definition.
    Literal(Vec<Value>),
    /// The list, or the entries of the object, that a task returned.
    Output(TaskIdx),
    /// The results of all instances of a mapped task.
    Collected(TaskIdx),
    /// Element by element; as long as the shortest, or as the longest if a value to fill with is given.
    Zip(Vec<Expand>, Option<Value>),
    /// Every combination; the last list varies fastest.
    Product(Vec<Expand>),
    /// One after the other.
    Concat(Vec<Expand>),
}

/// Where an [`Expand`] finds values and lengths.
pub trait ExpandSource {
    /// The stored list or object of a task.
    fn output(&self, task: TaskIdx) -> Option<&Value>;
    /// The stored results of a mapped task, by map index.
    fn collected(&self, task: TaskIdx) -> &[Arc<XComValue>];
}

impl Expand {
    /// The tasks it waits for, each with whether all instances count.
    pub fn tasks(&self) -> Vec<InputRef> {
        match self {
            Self::Literal(_) => Vec::new(),
            Self::Output(task) => vec![InputRef::Output(*task)],
            Self::Collected(task) => vec![InputRef::Collected(*task)],
            Self::Zip(parts, _) | Self::Product(parts) | Self::Concat(parts) => {
                parts.iter().flat_map(Self::tasks).collect()
            }
        }
    }

    /// How many instances it makes, given the length of each task's value; `None` while one is unknown.
    pub fn length(&self, known: &impl Fn(InputRef) -> Option<usize>) -> Option<usize> {
        let lengths =
            |parts: &[Self]| parts.iter().map(|part| part.length(known)).collect::<Option<Vec<_>>>();
        match self {
            Self::Literal(list) => Some(list.len()),
            Self::Output(task) => known(InputRef::Output(*task)),
            Self::Collected(task) => known(InputRef::Collected(*task)),
            Self::Zip(parts, None) => Some(lengths(parts)?.into_iter().min().unwrap_or(0)),
            Self::Zip(parts, Some(_)) => Some(lengths(parts)?.into_iter().max().unwrap_or(0)),
            Self::Product(parts) => Some(lengths(parts)?.into_iter().fold(1, usize::saturating_mul)),
            Self::Concat(parts) => Some(lengths(parts)?.into_iter().fold(0, usize::saturating_add)),
        }
    }

    /// The element number `index`; `None` beyond the end.
    pub fn element(&self, index: usize, source: &impl ExpandSource) -> Option<Value> {
        match self {
            Self::Literal(list) => list.get(index).cloned(),
            Self::Output(task) => match source.output(*task)? {
                Value::Array(list) => list.get(index).cloned(),
                Value::Object(object) => {
                    let (key, value) = object.iter().nth(index)?;
                    Some(Value::Array(vec![Value::String(key.clone()), value.clone()]))
                }
                _ => None,
            },
            Self::Collected(task) => source.collected(*task).get(index).map(|value| value.value().clone()),
            Self::Zip(parts, fill) => {
                let found: Vec<_> = parts.iter().map(|part| part.element(index, source)).collect();
                if found.iter().all(Option::is_none) {
                    return None;
                }
                found.into_iter().map(|v| v.or_else(|| fill.clone())).collect::<Option<_>>().map(Value::Array)
            }
            Self::Product(parts) => {
                let mut rest = index;
                let mut found = Vec::with_capacity(parts.len());
                for part in parts.iter().rev() {
                    let length = part.len_in(source)?;
                    if length == 0 {
                        return None;
                    }
                    found.push(part.element(rest % length, source)?);
                    rest /= length;
                }
                found.reverse();
                (rest == 0).then_some(Value::Array(found))
            }
            Self::Concat(parts) => {
                let mut rest = index;
                for part in parts {
                    let length = part.len_in(source)?;
                    if rest < length {
                        return part.element(rest, source);
                    }
                    rest -= length;
                }
                None
            }
        }
    }

    /// How many elements it has, given the values; `None` while one is missing.
    pub(crate) fn len_in(&self, source: &impl ExpandSource) -> Option<usize> {
        self.length(&|from| match from {
            InputRef::Output(task) => match source.output(task)? {
                Value::Array(list) => Some(list.len()),
                Value::Object(object) => Some(object.len()),
                _ => None,
            },
            InputRef::Collected(task) => Some(source.collected(task).len()),
            InputRef::Element(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct Nothing;

    impl ExpandSource for Nothing {
        fn output(&self, _: TaskIdx) -> Option<&Value> {
            None
        }

        fn collected(&self, _: TaskIdx) -> &[Arc<XComValue>] {
            &[]
        }
    }

    fn list(values: &[i32]) -> Expand {
        Expand::Literal(values.iter().map(|v| json!(v)).collect())
    }

    fn all(expand: &Expand) -> Vec<Value> {
        (0..).map_while(|index| expand.element(index, &Nothing)).collect()
    }

    #[test]
    fn the_last_list_of_a_product_varies_fastest() {
        let product = Expand::Product(vec![list(&[1, 2]), list(&[3, 4, 5])]);
        assert_eq!(json!(all(&product)), json!([[1, 3], [1, 4], [1, 5], [2, 3], [2, 4], [2, 5]]));
        assert_eq!(product.length(&|_| None), Some(6));
        assert_eq!(all(&Expand::Product(vec![list(&[1]), list(&[])])), Vec::<Value>::new());
    }

    #[test]
    fn a_zip_ends_with_the_shortest_or_fills_up() {
        let parts = vec![list(&[1, 2, 3]), list(&[4])];
        assert_eq!(json!(all(&Expand::Zip(parts.clone(), None))), json!([[1, 4]]));
        let filled = Expand::Zip(parts, Some(json!(0)));
        assert_eq!(json!(all(&filled)), json!([[1, 4], [2, 0], [3, 0]]));
        assert_eq!(filled.length(&|_| None), Some(3));
    }

    #[test]
    fn a_concat_goes_on_where_the_list_before_ends() {
        assert_eq!(json!(all(&Expand::Concat(vec![list(&[1]), list(&[]), list(&[2, 3])]))), json!([1, 2, 3]));
    }
}
