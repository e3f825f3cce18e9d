//! A change being put together: every transition goes into the view and into the unit to be written, at once.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::dag::TaskSettings;
use crate::id::TiKey;
use crate::map::HashSet;
use crate::operator::ScopeId;
use crate::state::{IllegalTransition, RunEvent, RunState, TaskEvent, TaskState};
use crate::store::{
    Expansion, Held, RunChange, SkipRecord, SlotChange, SlotKey, TiChange, TiData, Unit, XComWrite,
};
use crate::xcom::{SKIP_KEY, XComValue};

use super::view::RunView;

/// Puts one [`Unit`] together. Changes each task instance at most once.
#[derive(Debug)]
pub struct Planner<'v> {
    /// The run, with all changes so far.
    pub view: &'v mut RunView,
    /// What will be written.
    pub unit: Unit,
    /// The time of the decision.
    pub now: DateTime<Utc>,
    touched: HashSet<TiKey>,
    dirty: Vec<TiKey>,
}

impl<'v> Planner<'v> {
    /// Begins with nothing.
    pub fn new(view: &'v mut RunView, actor: &str, now: DateTime<Utc>) -> Self {
        let unit = Unit::new(&view.run, actor, now);
        Self { view, unit, now, touched: HashSet::default(), dirty: Vec::new() }
    }

    /// Goes on with what was [put aside](Self::put_aside).
    pub fn resume(view: &'v mut RunView, unit: Unit, touched: HashSet<TiKey>, now: DateTime<Utc>) -> Self {
        Self { view, unit, now, touched, dirty: Vec::new() }
    }

    /// What was put together so far: the unit, and the instances that it changes.
    pub fn put_aside(self) -> (Unit, HashSet<TiKey>) {
        (self.unit, self.touched)
    }

    /// Whether an instance has changed in this unit and cannot change again.
    pub fn is_touched(&self, key: TiKey) -> bool {
        self.touched.contains(&key)
    }

    /// Changes one instance; `edit` sees its data and changes what the event brings.
    ///
    /// # Errors
    ///
    /// [`IllegalTransition`] if the event cannot happen: nothing is changed.
    ///
    /// # Panics
    ///
    /// If the run has no such instance, or it was changed before in this unit.
    pub fn change(
        &mut self,
        key: TiKey,
        event: TaskEvent,
        edit: impl FnOnce(&mut TiData),
    ) -> Result<(), IllegalTransition> {
        let ti = self.view.ti(key).expect("the caller looked the instance up");
        let transition = ti.state.on(event)?;
        assert!(self.touched.insert(key), "a unit changes each instance at most once");
        let epoch = ti.epoch;
        let mut data = ti.data.clone();
        if transition.to().is_finished() {
            data.ended_at = Some(self.now);
            data.next_try_at = None;
        } else if transition.from().is_finished() {
            data.ended_at = None;
        }
        if transition.to().is_finished() || event == TaskEvent::Cleared {
            data.wait = None;
        }
        edit(&mut data);
        self.change_slots(key, transition.from(), transition.to(), &mut data);
        self.unit.tis.push(TiChange {
            task_id: self.view.dag.task(key.task).id.clone(),
            map_index: key.map,
            transition,
            epoch,
            data: data.clone(),
        });
        self.view.apply(key, transition, data);
        self.dirty.push(key);
        Ok(())
    }

    /// Takes what an instance needs while it is queued, running or deferred, and gives back what it has taken.
    fn change_slots(&mut self, key: TiKey, from: TaskState, to: TaskState, data: &mut TiData) {
        let task = self.view.dag.task(key.task);
        let (dag_id, task_id) = (self.view.dag.id.clone(), task.id.clone());
        // What was started by an older version of this library does not say what it holds.
        let held = data.holds.take().unwrap_or_else(|| Arc::new(needs_of(&task.settings)));
        let limits = [
            Some(i64::from(self.view.dag.settings.max_active_tasks)),
            task.settings.max_active_tis_per_dag.map(i64::from),
        ];
        let before = held.slots(from, &dag_id, &task_id);
        let after = held.slots(to, &dag_id, &task_id);
        if !after.is_empty() {
            data.holds = Some(held);
        }
        let of = |list: &[(SlotKey, i64)], key: &SlotKey| {
            list.iter().find(|(other, _)| other == key).map_or(0, |(_, count)| *count)
        };
        let gone = before.iter().filter(|(key, _)| of(&after, key) == 0);
        for (slot, _) in after.iter().chain(gone) {
            let delta = of(&after, slot) - of(&before, slot);
            let limit = match slot {
                SlotKey::Dag(_) => limits[0],
                SlotKey::Task(..) => limits[1],
                SlotKey::Pool(_) | SlotKey::Deferred(_) | SlotKey::Runs(_) => None,
            };
            if delta != 0 {
                self.slot(slot.clone(), delta, limit);
            }
        }
    }

    /// Notes a change of a limit; changes of one limit add up.
    pub fn slot(&mut self, key: SlotKey, delta: i64, limit: Option<i64>) {
        match self.unit.slots.iter_mut().find(|slot| slot.key == key) {
            Some(slot) => slot.delta += delta,
            None => self.unit.slots.push(SlotChange { key, delta, limit }),
        }
    }

    /// Stores what a branch decided.
    pub fn record_skip(&mut self, key: TiKey, record: SkipRecord) {
        let value = serde_json::to_value(&record).expect("a list of ids is JSON");
        self.unit.xcoms.push(XComWrite {
            task_id: self.view.dag.task(key.task).id.clone(),
            map_index: key.map,
            key: SKIP_KEY.to_owned(),
            value: XComValue::from_value(value),
        });
        self.view.set_skip(key, Some(record));
    }

    /// Fixes the length of a mapping.
    pub fn expand(&mut self, scope: ScopeId, length: u32) {
        let owner = self.view.dag.scope(scope).owner.clone();
        self.unit.expansions.push(Expansion { owner, length });
        self.view.expand(scope, length);
        let tasks = self.view.dag.scope(scope).tasks.clone();
        for task in tasks {
            self.dirty.push(TiKey::single(task));
        }
    }

    /// Changes the state of the run.
    ///
    /// # Errors
    ///
    /// [`IllegalTransition`] if the event cannot happen: nothing is changed.
    pub fn change_run(&mut self, event: RunEvent, reason: Option<&str>) -> Result<(), IllegalTransition> {
        let run = &mut self.view.run;
        let transition = run.state.on(event)?;
        let (from, to) = (transition.from(), transition.to());
        run.state = to;
        run.reason = reason.map(str::to_owned);
        match to {
            RunState::Running => {
                run.started_at = run.started_at.or(Some(self.now));
                run.ended_at = None;
            }
            RunState::Queued => {
                run.queued_at = self.now;
                run.started_at = None;
                run.ended_at = None;
            }
            RunState::Success | RunState::Failed => run.ended_at = Some(self.now),
        }
        let change = RunChange {
            transition,
            started_at: run.started_at,
            ended_at: run.ended_at,
            reason: run.reason.clone(),
        };
        let dag_id = run.dag_id.clone();
        self.unit.run_change = Some(change);
        let delta = i64::from(to == RunState::Running) - i64::from(from == RunState::Running);
        if delta != 0 {
            let limit = i64::from(self.view.dag.settings.max_active_runs);
            self.slot(SlotKey::Runs(dag_id), delta, Some(limit));
        }
        Ok(())
    }

    /// Instances that changed since the last call; what comes after them must be looked at.
    pub fn take_dirty(&mut self) -> Vec<TiKey> {
        std::mem::take(&mut self.dirty)
    }
}

/// What an instance of a task takes of limits when it starts.
pub(crate) fn needs_of(settings: &TaskSettings) -> Held {
    Held {
        pool: settings.pool.clone(),
        slots: settings.pool_slots,
        counts_for_task: settings.max_active_tis_per_dag.is_some(),
    }
}
