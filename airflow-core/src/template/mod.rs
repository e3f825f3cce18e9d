//! Templates in task fields: Jinja's language with Python's results, as Airflow renders them.
//!
//! [`Renderer`] renders the fields of one attempt from a [`TemplateContext`] and lazy [`Lookups`]; [`check`] finds
//! faults when a DAG is compiled. Nothing here touches a store, and every rendering is bounded in steps, depth and
//! size: a template can fail, but it can neither hang nor panic. Start reading at [`Renderer`]; `rewrite` explains
//! how Python's operators get into the engine.

mod args;
mod assets;
mod check;
mod conf;
mod containers;
mod context;
mod datetime;
mod error;
mod filters;
mod format;
mod json;
mod literal;
mod macros;
mod methods;
mod ops;
mod options;
mod py;
mod render;
mod rewrite;
#[cfg(test)]
mod tests;
mod values;

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::path::PathBuf;

use serde_json::Value as Json;

pub use self::assets::TemplateAssets;
pub use self::check::check;
pub use self::context::{Lookups, NoLookups, PreviousRun, TemplateConnection, TemplateContext};
pub use self::error::{TemplateError, TemplateErrorKind};
pub use self::options::TemplateOptions;
pub use self::render::{Renderer, Undefined};

/// A type that a `#[template]` field may have.
pub trait Template: Sized {
    /// Renders every template in the value.
    ///
    /// # Errors
    ///
    /// The first template that fails.
    fn render(&self, renderer: &Renderer) -> Result<Self, TemplateError>;

    /// The value as the web UI shows it.
    fn shown(&self) -> Json;

    /// The texts of all templates in the value, for [`check`].
    fn sources(&self) -> Vec<String>;
}

impl Template for String {
    fn render(&self, renderer: &Renderer) -> Result<Self, TemplateError> {
        renderer.render_str(self)
    }

    fn shown(&self) -> Json {
        Json::String(self.clone())
    }

    fn sources(&self) -> Vec<String> {
        vec![self.clone()]
    }
}

impl Template for PathBuf {
    /// A path that is not UTF-8 holds no template and stays as it is.
    fn render(&self, renderer: &Renderer) -> Result<Self, TemplateError> {
        self.to_str().map_or_else(|| Ok(self.clone()), |path| renderer.render_str(path).map(Self::from))
    }

    fn shown(&self) -> Json {
        Json::String(self.to_string_lossy().into_owned())
    }

    fn sources(&self) -> Vec<String> {
        self.to_str().map(str::to_owned).into_iter().collect()
    }
}

impl<T: Template> Template for Option<T> {
    fn render(&self, renderer: &Renderer) -> Result<Self, TemplateError> {
        self.as_ref().map(|value| value.render(renderer)).transpose()
    }

    fn shown(&self) -> Json {
        self.as_ref().map_or(Json::Null, T::shown)
    }

    fn sources(&self) -> Vec<String> {
        self.as_ref().map(T::sources).unwrap_or_default()
    }
}

impl<T: Template> Template for Vec<T> {
    fn render(&self, renderer: &Renderer) -> Result<Self, TemplateError> {
        self.iter().map(|value| value.render(renderer)).collect()
    }

    fn shown(&self) -> Json {
        Json::Array(self.iter().map(T::shown).collect())
    }

    fn sources(&self) -> Vec<String> {
        self.iter().flat_map(T::sources).collect()
    }
}

impl<T: Template> Template for BTreeMap<String, T> {
    fn render(&self, renderer: &Renderer) -> Result<Self, TemplateError> {
        self.iter().map(|(key, value)| Ok((key.clone(), value.render(renderer)?))).collect()
    }

    fn shown(&self) -> Json {
        Json::Object(self.iter().map(|(key, value)| (key.clone(), value.shown())).collect())
    }

    fn sources(&self) -> Vec<String> {
        self.values().flat_map(T::sources).collect()
    }
}

impl<T: Template, S: BuildHasher + Default> Template for HashMap<String, T, S> {
    fn render(&self, renderer: &Renderer) -> Result<Self, TemplateError> {
        self.iter().map(|(key, value)| Ok((key.clone(), value.render(renderer)?))).collect()
    }

    /// Keys are sorted: what is shown must not depend on the order of a hash map.
    fn shown(&self) -> Json {
        let sorted: BTreeMap<&String, Json> = self.iter().map(|(key, value)| (key, value.shown())).collect();
        Json::Object(sorted.into_iter().map(|(key, value)| (key.clone(), value)).collect())
    }

    fn sources(&self) -> Vec<String> {
        let sorted: BTreeMap<&String, &T> = self.iter().collect();
        sorted.into_values().flat_map(T::sources).collect()
    }
}

impl Template for Json {
    fn render(&self, renderer: &Renderer) -> Result<Self, TemplateError> {
        renderer.render_value(self)
    }

    fn shown(&self) -> Json {
        self.clone()
    }

    fn sources(&self) -> Vec<String> {
        match self {
            Self::String(template) => vec![template.clone()],
            Self::Array(items) => items.iter().flat_map(Self::sources).collect(),
            Self::Object(map) => map.values().flat_map(Self::sources).collect(),
            _ => Vec::new(),
        }
    }
}
