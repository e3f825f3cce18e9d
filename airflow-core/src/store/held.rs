//! What a task instance holds of limits.

use serde::{Deserialize, Serialize};

use crate::id::{DagId, TaskId};
use crate::state::TaskState;

use super::SlotKey;

/// What a task instance has taken of limits when it was started. The same is given back, whatever its task says by then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The pool.
    pub pool: String,
    /// How many slots of it.
    pub slots: u32,
    /// Whether it counts for the limit of its task over all runs.
    pub counts_for_task: bool,
}

impl Held {
    /// The limits of which an instance in this state takes something, and how much.
    pub fn slots(&self, state: TaskState, dag: &DagId, task: &TaskId) -> Vec<(SlotKey, i64)> {
        let of_pool = i64::from(self.slots);
        let mut all = if state.is_executing() {
            vec![(SlotKey::Pool(self.pool.clone()), of_pool), (SlotKey::Dag(dag.clone()), 1)]
        } else if state == TaskState::Deferred {
            vec![(SlotKey::Deferred(self.pool.clone()), of_pool)]
        } else {
            return Vec::new();
        };
        if self.counts_for_task {
            all.push((SlotKey::Task(dag.clone(), task.clone()), 1));
        }
        all
    }
}
