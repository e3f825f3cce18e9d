//! When the next deadline is over. Which one it is, the store is asked then.

use chrono::{DateTime, Utc};

use crate::id::DagId;
use crate::store::{DeadlineRow, RunRow};

use super::Core;

#[derive(Debug, Default)]
pub(super) struct Deadlines {
    /// The dags that have any.
    dags: Vec<DagId>,
    next: Option<DateTime<Utc>>,
}

impl Deadlines {
    pub(super) fn next(&self) -> Option<DateTime<Utc>> {
        self.next
    }
}

impl Core {
    pub(super) fn know_deadlines_of(&mut self, dag: &crate::compile::CompiledDag) {
        if !dag.settings.deadlines.is_empty() {
            self.deadlines.dags.push(dag.id.clone());
        }
    }

    /// The dags whose runs have deadlines.
    pub(in crate::scheduler) fn deadline_dags(&self) -> &[DagId] {
        &self.deadlines.dags
    }

    /// The first that is not settled, as the store knows it.
    pub(in crate::scheduler) fn know_next_deadline(&mut self, first: Option<&DeadlineRow>) {
        self.deadlines.next = first.map(|row| row.due);
    }

    /// A run of this dag was made: the store is asked which deadlines there are.
    pub(super) fn look_at_deadlines(&mut self, dag: &DagId, now: DateTime<Utc>) {
        if self.deadlines.dags.contains(dag) {
            self.deadlines.next = Some(now);
        }
    }

    /// A run that was made beside the loop.
    pub(in crate::scheduler) fn know_new_run(&mut self, row: RunRow, now: DateTime<Utc>) {
        self.look_at_deadlines(&row.dag_id, now);
        self.know_run(row, now);
    }

    /// Whether a deadline is over.
    pub(super) fn deadline_is_over(&self, now: DateTime<Utc>) -> bool {
        self.deadlines.next.is_some_and(|next| next <= now)
    }
}
