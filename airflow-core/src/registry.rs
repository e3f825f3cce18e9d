//! The dags of a process, by id and version.
//!
//! A process carries one version of each dag: the one it was built with.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use crate::asset::{Asset, NamedWatcher, WatcherKey};
use crate::compile::{CompiledDag, DefinitionErrors};
use crate::dag::{DagDef, Place, Problem, ProblemKind};
use crate::id::DagId;
use crate::operator::{AnyOperator, Resources};

/// Mistakes that keep an application from starting, of all dags at once.
#[derive(Debug, Clone, PartialEq)]
pub struct RegistryErrors {
    /// The dags that have mistakes.
    pub dags: Vec<DefinitionErrors>,
    /// Dags that share an id: the id and both places.
    pub duplicates: Vec<(String, Place, Place)>,
}

impl fmt::Display for RegistryErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (id, one, other) in &self.duplicates {
            if !std::mem::take(&mut first) {
                writeln!(f)?;
            }
            write!(f, "two dags have the id `{id}`: one at {one}, one at {other}; rename one of them")?;
        }
        for errors in &self.dags {
            if !std::mem::take(&mut first) {
                writeln!(f)?;
            }
            write!(f, "{errors}")?;
        }
        Ok(())
    }
}

impl std::error::Error for RegistryErrors {}

/// The dags of a process, and the watchers of the assets that they name.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    dags: BTreeMap<DagId, Arc<CompiledDag>>,
    watchers: Arc<BTreeMap<WatcherKey, (Asset, NamedWatcher)>>,
}

impl Registry {
    /// Compiles dags and checks that every resource their tasks borrow is there.
    ///
    /// # Errors
    ///
    /// [`RegistryErrors`] lists all mistakes of all dags.
    pub fn compile(defs: &[DagDef], resources: &Resources) -> Result<Self, RegistryErrors> {
        Self::compile_but(defs, resources, &|_, _| false)
    }

    /// As [`compile`](Self::compile), but tasks that are `excused` (by id and operator) may lack resources: a test
    /// runs something else in their place.
    pub(crate) fn compile_but(
        defs: &[DagDef],
        resources: &Resources,
        excused: &dyn Fn(&str, &dyn AnyOperator) -> bool,
    ) -> Result<Self, RegistryErrors> {
        let mut errors = RegistryErrors { dags: Vec::new(), duplicates: Vec::new() };
        let mut places: BTreeMap<&str, Place> = BTreeMap::new();
        let mut dags = BTreeMap::new();
        for def in defs {
            if let Some(first) = places.insert(def.id(), def.place) {
                errors.duplicates.push((def.id().to_owned(), first, def.place));
            }
            let missing = missing_resources(def, resources, excused);
            match def.compile() {
                Ok(dag) if missing.is_empty() => {
                    dags.insert(dag.id.clone(), Arc::new(dag));
                }
                Ok(dag) => errors.dags.push(DefinitionErrors {
                    dag_id: dag.id.to_string(),
                    place: dag.place,
                    problems: missing,
                }),
                Err(mut wrong) => {
                    wrong.problems.extend(missing);
                    errors.dags.push(wrong);
                }
            }
        }
        errors.dags.extend(two_assets(dags.values()));
        let watchers = Arc::new(watchers(dags.values(), &mut errors.dags));
        if errors.dags.is_empty() && errors.duplicates.is_empty() {
            Ok(Self { dags, watchers })
        } else {
            Err(errors)
        }
    }

    /// The version of a dag that this process carries.
    pub fn get(&self, dag_id: &DagId) -> Option<&Arc<CompiledDag>> {
        self.dags.get(dag_id)
    }

    /// All dags, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<CompiledDag>> {
        self.dags.values()
    }

    /// The watchers of the assets that its dags name.
    pub(crate) fn watchers(&self) -> &BTreeMap<WatcherKey, (Asset, NamedWatcher)> {
        &self.watchers
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.dags.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.dags.is_empty()
    }
}

/// An asset is known by its name and by its URI, so each stands for one asset in all dags.
fn two_assets<'d>(dags: impl Iterator<Item = &'d Arc<CompiledDag>>) -> Vec<DefinitionErrors> {
    let mut by_name: HashMap<&str, (&Asset, Place)> = HashMap::new();
    let mut by_uri: HashMap<&str, (&Asset, Place)> = HashMap::new();
    let mut found = Vec::new();
    for dag in dags {
        let mut problems = Vec::new();
        for (asset, place) in dag.assets().filter_map(|(one, place)| Some((one.asset()?, place))) {
            let named = *by_name.entry(asset.name()).or_insert((asset, place));
            let placed = *by_uri.entry(asset.uri()).or_insert((asset, place));
            if let Some((other, first)) = [named, placed].into_iter().find(|(other, _)| *other != asset) {
                let kind = ProblemKind::TwoAssets {
                    name: asset.name().to_owned(),
                    uri: asset.uri().to_owned(),
                    other_name: other.name().to_owned(),
                    other_uri: other.uri().to_owned(),
                    first,
                };
                problems.push(Problem { kind, place });
            }
        }
        problems.dedup();
        if !problems.is_empty() {
            found.push(DefinitionErrors { dag_id: dag.id.to_string(), place: dag.place, problems });
        }
    }
    found
}

/// The watchers of all assets, each once. Of those that several dags name the first counts: they are made by the same
/// code.
fn watchers<'d>(
    dags: impl Iterator<Item = &'d Arc<CompiledDag>>,
    found: &mut Vec<DefinitionErrors>,
) -> BTreeMap<WatcherKey, (Asset, NamedWatcher)> {
    let mut all: BTreeMap<WatcherKey, (Asset, NamedWatcher, Place)> = BTreeMap::new();
    for dag in dags {
        let mut problems = Vec::new();
        for (asset, place) in dag.assets().filter_map(|(one, place)| Some((one.asset()?, place))) {
            for watcher in asset.watchers() {
                let key = WatcherKey { asset: asset.key(), name: watcher.name().to_owned() };
                let first = all.entry(key).or_insert_with(|| (asset.clone(), watcher.clone(), place));
                if first.1.kind() != watcher.kind() {
                    let kind = ProblemKind::TwoWatchers {
                        name: watcher.name().to_owned(),
                        asset: asset.name().to_owned(),
                        kind: watcher.kind(),
                        other: first.1.kind(),
                        first: first.2,
                    };
                    problems.push(Problem { kind, place });
                }
            }
        }
        problems.dedup();
        if !problems.is_empty() {
            found.push(DefinitionErrors { dag_id: dag.id.to_string(), place: dag.place, problems });
        }
    }
    all.into_iter().map(|(key, (asset, watcher, _))| (key, (asset, watcher))).collect()
}

fn missing_resources(
    def: &DagDef,
    resources: &Resources,
    excused: &dyn Fn(&str, &dyn AnyOperator) -> bool,
) -> Vec<Problem> {
    let mut missing = Vec::new();
    for task in def.definition.tasks.iter().filter(|task| !excused(task.id.as_str(), &*task.operator)) {
        for need in task.description.resources.iter().filter(|need| !resources.has(**need)) {
            let kind = ProblemKind::MissingResource {
                task: task.id.to_string(),
                resource: need.type_name().to_owned(),
            };
            missing.push(Problem { kind, place: task.place });
        }
    }
    missing
}
