//! The structure of a dag, written down when it is wanted.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;

use crate::compile::CompiledDag;

/// The structure of a dag as JSON text. Of a compiled dag it is written when a store asks for it, which it does for
/// versions that it does not know.
///
/// ```
/// use airflow_core::store::DagStructure;
///
/// let structure = DagStructure::from(serde_json::json!({ "tasks": ["a"] }));
/// assert_eq!(structure.to_text(), r#"{"tasks":["a"]}"#);
/// ```
#[derive(Debug, Clone)]
pub struct DagStructure(StructureSource);

#[derive(Debug, Clone)]
enum StructureSource {
    Text(Arc<str>),
    Dag(Arc<CompiledDag>),
}

impl DagStructure {
    /// The JSON text.
    pub fn to_text(&self) -> Cow<'_, str> {
        match &self.0 {
            StructureSource::Text(text) => Cow::Borrowed(text),
            StructureSource::Dag(dag) => Cow::Owned(dag.structure()),
        }
    }
}

impl From<Value> for DagStructure {
    fn from(value: Value) -> Self {
        Self(StructureSource::Text(value.to_string().into()))
    }
}

impl From<Arc<CompiledDag>> for DagStructure {
    fn from(dag: Arc<CompiledDag>) -> Self {
        Self(StructureSource::Dag(dag))
    }
}

impl PartialEq for DagStructure {
    fn eq(&self, other: &Self) -> bool {
        self.to_text() == other.to_text()
    }
}
