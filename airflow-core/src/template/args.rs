//! The arguments of a call, read as Python reads them: by place or by name, and none left over.

use std::cell::Cell;

use minijinja::value::Kwargs;
use minijinja::{Error, Value};

use super::error::type_error;
use super::py::{as_int, class_of, to_str};

/// The arguments of one call of `name`.
pub(super) struct Args {
    name: &'static str,
    places: Vec<Value>,
    named: Option<Kwargs>,
    read: Cell<usize>,
}

impl Args {
    pub(super) fn new(name: &'static str, args: &[Value]) -> Self {
        let (named, places) = match args.split_last() {
            Some((last, rest)) if last.is_kwargs() => (Kwargs::try_from(last.clone()).ok(), rest),
            _ => (None, args),
        };
        Self { name, places: places.to_vec(), named, read: Cell::new(0) }
    }

    /// All positional arguments.
    pub(super) fn rest(&self) -> &[Value] {
        self.read.set(usize::MAX);
        &self.places
    }

    /// All keyword arguments in order.
    pub(super) fn pairs(&self) -> Vec<(String, Value)> {
        let Some(named) = &self.named else { return Vec::new() };
        let keys: Vec<String> = named.args().map(str::to_owned).collect();
        keys.into_iter().map(|key| (key.clone(), named.get::<Value>(&key).unwrap_or_default())).collect()
    }

    /// The argument at `place` or called `name`; absent if neither was given.
    pub(super) fn get(&self, place: usize, name: &str) -> Option<Value> {
        self.read.set(self.read.get().max(place.saturating_add(1)));
        let by_name =
            self.named.as_ref().filter(|named| named.has(name)).and_then(|named| named.get(name).ok());
        self.places.get(place).cloned().or(by_name)
    }

    /// The keyword argument called `name`.
    pub(super) fn named(&self, name: &str) -> Option<Value> {
        self.named.as_ref().filter(|named| named.has(name)).and_then(|named| named.get(name).ok())
    }

    /// The integer keyword argument called `name`.
    pub(super) fn named_int(&self, name: &str) -> Result<Option<i128>, Error> {
        self.named(name).map(|value| self.int_of(name, &value)).transpose()
    }

    pub(super) fn required(&self, place: usize, name: &str) -> Result<Value, Error> {
        self.get(place, name)
            .ok_or_else(|| type_error(format!("{}() is missing the argument '{name}'", self.name)))
    }

    /// `str()` of the argument; an undefined one is an error.
    pub(super) fn shown(&self, place: usize, name: &str) -> Result<String, Error> {
        let value = self.required(place, name)?;
        if value.is_undefined() { Err(self.wrong(name, "defined", &value)) } else { to_str(&value) }
    }

    pub(super) fn text(&self, place: usize, name: &str) -> Result<String, Error> {
        let value = self.required(place, name)?;
        self.text_of(name, &value)
    }

    pub(super) fn text_or(&self, place: usize, name: &str, default: &str) -> Result<String, Error> {
        match self.get(place, name) {
            Some(value) => self.text_of(name, &value),
            None => Ok(default.to_owned()),
        }
    }

    pub(super) fn int(&self, place: usize, name: &str) -> Result<i128, Error> {
        let value = self.required(place, name)?;
        self.int_of(name, &value)
    }

    pub(super) fn int_or(&self, place: usize, name: &str, default: i128) -> Result<i128, Error> {
        match self.get(place, name) {
            Some(value) => self.int_of(name, &value),
            None => Ok(default),
        }
    }

    pub(super) fn flag_or(&self, place: usize, name: &str, default: bool) -> bool {
        self.get(place, name).map_or(default, |value| value.is_true())
    }

    /// Refuses arguments that nothing has read.
    pub(super) fn done(&self) -> Result<(), Error> {
        if self.places.len() > self.read.get() {
            return Err(type_error(format!("{}() was given too many arguments", self.name)));
        }
        match &self.named {
            Some(named) => named.assert_all_used().map_err(|error| {
                type_error(format!("{}(): {}", self.name, error.detail().unwrap_or_default()))
            }),
            None => Ok(()),
        }
    }

    fn text_of(&self, name: &str, value: &Value) -> Result<String, Error> {
        value.as_str().map(str::to_owned).ok_or_else(|| self.wrong(name, "a string", value))
    }

    fn int_of(&self, name: &str, value: &Value) -> Result<i128, Error> {
        as_int(value).ok_or_else(|| self.wrong(name, "an integer", value))
    }

    fn wrong(&self, name: &str, wanted: &str, value: &Value) -> Error {
        if value.is_undefined() {
            return super::error::undefined(format!("{}(): '{name}' is undefined", self.name));
        }
        type_error(format!("{}(): '{name}' must be {wanted}, not {}", self.name, class_of(value)))
    }
}
