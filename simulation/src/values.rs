//! What tasks hand on: an attempt is given what the store has.

use std::collections::BTreeMap;

use airflow_core::id::{AttemptId, MapIndex, RunPk, TaskId};
use airflow_core::plan::Attempt;
use airflow_core::store::Unit;
use airflow_core::xcom::RETURN_VALUE;

use super::oracle::{Oracle, Ti};

/// The results of tasks, as the store has them.
#[derive(Default)]
pub(crate) struct Values {
    stored: BTreeMap<Ti, String>,
    generations: BTreeMap<RunPk, u32>,
    /// The generations in which attempts were started.
    started: BTreeMap<AttemptId, u32>,
}

impl Values {
    pub(crate) fn written(&mut self, unit: &Unit) {
        let generation = unit.generation + u32::from(unit.by_user);
        self.generations.insert(unit.run, generation);
        self.started.extend(unit.started.iter().map(|start| (start.attempt_id, generation)));
        for (task, map_index) in &unit.xcom_clears {
            self.stored.remove(&(unit.run, task.clone(), *map_index));
        }
        for xcom in unit.xcoms.iter().filter(|xcom| xcom.key == RETURN_VALUE) {
            let ti = (unit.run, xcom.task_id.clone(), xcom.map_index);
            self.stored.insert(ti, xcom.value.text().to_owned());
        }
    }

    /// Whether somebody changed the run after the attempt was started: then it may have older values.
    fn is_late(&self, attempt: &Attempt) -> bool {
        self.started.get(&attempt.ti.attempt_id) != self.generations.get(&attempt.run.pk)
    }
}

impl Oracle {
    /// A user has set a result.
    pub(crate) fn value_is_set(&mut self, run: RunPk, task: &TaskId, value: &str) {
        self.seen("a result is set by a user");
        self.line(&format!("the result of {task} in run {run} is set"));
        self.values.stored.insert((run, task.clone(), MapIndex::UNMAPPED), value.to_owned());
        *self.values.generations.entry(run).or_default() += 1;
    }

    /// An attempt is handed out with what it was given.
    pub(crate) fn is_given(&mut self, attempt: &Attempt) {
        if self.values.is_late(attempt) {
            return;
        }
        for (from, value) in &attempt.given {
            let ti = (attempt.run.pk, TaskId::new(format!("t{}", from.task.0)), from.map);
            self.seen("a result is handed on");
            let stored = self.values.stored.get(&ti);
            if stored.map(String::as_str) != Some(value.text()) {
                let text =
                    format!("{:?} is given {} of {ti:?}; the store has {stored:?}", attempt.ti, value.text());
                self.broken("values", text);
            }
        }
    }
}
