//! Results that this process has just written, for the attempts that take them: a task after a task need not read what
//! was in memory a moment ago.
//!
//! A result of an instance that has succeeded stays as it is within one generation of its run: whoever clears the
//! instance, or writes or deletes values from outside, begins the next one. So what was written in the generation in which
//! an attempt starts is what the attempt would read.

use std::sync::Arc;

use crate::id::{RunPk, TiKey};
use crate::map::HashMap;
use crate::operator::InputRef;
use crate::plan::RunView;
use crate::state::TaskState;
use crate::store::Unit;
use crate::xcom::{RETURN_VALUE, XComValue};

/// How long a value may be, in bytes of JSON: beside the work with a longer one, reading it costs little.
const LONGEST: usize = 4 * 1024;

/// How many bytes are kept before those that nobody has asked for since go. Twice as many may be kept.
const ROOM: usize = 4 * 1024 * 1024;

/// What a value costs beside its text, about.
const OVERHEAD: usize = 128;

#[derive(Debug, Clone)]
struct Kept {
    generation: u32,
    value: Arc<XComValue>,
}

type Generation = HashMap<(RunPk, TiKey), Kept>;

/// The results, in two halves: if the younger one is full, the older one is dropped and the younger one is the older.
/// What is asked for becomes young again.
#[derive(Debug, Default)]
pub(super) struct Results {
    young: Generation,
    old: Generation,
    bytes: usize,
}

impl Results {
    /// Keeps the results in a unit that was written, if a task takes them one by one.
    pub(super) fn keep(&mut self, view: &RunView, unit: &Unit) {
        for xcom in unit.xcoms.iter().filter(|xcom| xcom.key == RETURN_VALUE) {
            let Some(task) = view.dag.find(xcom.task_id.as_str()) else { continue };
            let key = TiKey { task, map: xcom.map_index };
            let has_succeeded = view.ti(key).is_some_and(|ti| ti.state == TaskState::Success);
            if has_succeeded && view.dag.task(task).is_input && xcom.value.text().len() <= LONGEST {
                let kept = Kept { generation: view.run.generation, value: Arc::clone(&xcom.value) };
                self.put((view.run.pk, key), kept);
            }
        }
    }

    /// What is known of the results that an instance takes one by one.
    pub(super) fn for_instance(&mut self, view: &RunView, key: TiKey) -> Vec<(TiKey, Arc<XComValue>)> {
        if self.young.is_empty() && self.old.is_empty() {
            return Vec::new();
        }
        let mut found = Vec::new();
        for input in &*view.dag.task(key.task).inputs {
            if let InputRef::Output(from) = input {
                let key = view.dag.source_of(*from, key);
                found.extend(self.get(view, key).map(|value| (key, value)));
            }
        }
        found
    }

    fn get(&mut self, view: &RunView, key: TiKey) -> Option<Arc<XComValue>> {
        let id = (view.run.pk, key);
        if !self.young.contains_key(&id) {
            let kept = self.old.remove(&id)?;
            self.put(id, kept);
        }
        let kept = self.young.get(&id).filter(|kept| kept.generation == view.run.generation)?;
        Some(Arc::clone(&kept.value))
    }

    fn put(&mut self, id: (RunPk, TiKey), kept: Kept) {
        self.bytes += OVERHEAD + kept.value.text().len();
        if self.bytes > ROOM {
            self.old = std::mem::take(&mut self.young);
            self.bytes = OVERHEAD + kept.value.text().len();
        }
        self.young.insert(id, kept);
    }
}
