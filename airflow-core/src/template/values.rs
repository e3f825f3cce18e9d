//! Objects with named attributes and methods: `dag`, `ti`, `macros`, `var` and the functions of user macros.

use std::fmt;
use std::sync::Arc;

use minijinja::value::{Object, ObjectRepr};
use minijinja::{Error, ErrorKind, State, Value};

use super::error::type_error;

/// A function that templates can call.
pub(super) type Function = Arc<dyn Fn(&[Value]) -> Result<Value, Error> + Send + Sync>;
/// What an attribute that is computed on demand is asked with.
pub(super) type Lookup = Arc<dyn Fn(&str) -> Option<Value> + Send + Sync>;

/// An object made of attributes and methods.
#[derive(Default)]
pub(super) struct Thing {
    shown: String,
    attributes: Vec<(String, Value)>,
    methods: Vec<(&'static str, Function)>,
    lookup: Option<Lookup>,
    call: Option<Function>,
}

impl Thing {
    /// An object that prints as `shown`.
    pub(super) fn new(shown: impl Into<String>) -> Self {
        Self { shown: shown.into(), ..Self::default() }
    }

    pub(super) fn with(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.attributes.push((name.into(), value.into()));
        self
    }

    pub(super) fn method<F>(mut self, name: &'static str, function: F) -> Self
    where
        F: Fn(&[Value]) -> Result<Value, Error> + Send + Sync + 'static,
    {
        self.methods.push((name, Arc::new(function)));
        self
    }

    pub(super) fn lookup<F>(mut self, lookup: F) -> Self
    where
        F: Fn(&str) -> Option<Value> + Send + Sync + 'static,
    {
        self.lookup = Some(Arc::new(lookup));
        self
    }

    pub(super) fn callable<F>(mut self, function: F) -> Self
    where
        F: Fn(&[Value]) -> Result<Value, Error> + Send + Sync + 'static,
    {
        self.call = Some(Arc::new(function));
        self
    }

    pub(super) fn value(self) -> Value {
        Value::from_object(self)
    }

    /// A plain function.
    pub(super) fn function<F>(name: &str, function: F) -> Value
    where
        F: Fn(&[Value]) -> Result<Value, Error> + Send + Sync + 'static,
    {
        Self::new(format!("<function {name}>")).callable(function).value()
    }
}

impl fmt::Debug for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Thing").field("shown", &self.shown).finish_non_exhaustive()
    }
}

impl Object for Thing {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        let own = self.attributes.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
        own.or_else(|| self.lookup.as_ref()?(key))
    }

    fn call(self: &Arc<Self>, _: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        match &self.call {
            Some(function) => function(args),
            None => Err(type_error(format!("'{}' is not callable", self.shown))),
        }
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        name: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        match self.methods.iter().find(|(method, _)| *method == name) {
            Some((_, function)) => function(args),
            None => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// Whether a template could call the value.
pub(super) fn is_callable(value: &Value) -> bool {
    match value.downcast_object_ref::<Thing>() {
        Some(thing) => thing.call.is_some(),
        // The engine's own functions and macros are the other objects that are no containers.
        None => {
            value.as_object().is_some_and(|object| object.repr() == ObjectRepr::Plain)
                && super::py::class_of(value) == "object"
        }
    }
}
