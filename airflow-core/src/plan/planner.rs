//! A change being put together: every transition goes into the view and into the unit to be written, at once.

use std::collections::HashSet;

use chrono::{DateTime, Utc};

use crate::id::{TaskIdx, TiKey};
use crate::operator::ScopeId;
use crate::state::{IllegalTransition, RunEvent, RunState, TaskEvent, TaskState};
use crate::store::{
    Expansion, RunChange, SkipRecord, SlotChange, SlotKey, TiChange, TiData, Unit, XComWrite,
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
        Self { view, unit, now, touched: HashSet::new(), dirty: Vec::new() }
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
        self.give_slots(key, transition.from(), transition.to());
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

    /// Takes or gives back what an instance holds while it is queued, running or deferred.
    fn give_slots(&mut self, key: TiKey, from: TaskState, to: TaskState) {
        let runs = i64::from(to.is_executing()) - i64::from(from.is_executing());
        let waits = i64::from(to == TaskState::Deferred) - i64::from(from == TaskState::Deferred);
        if runs == 0 && waits == 0 {
            return;
        }
        for (slot, count, limit) in slots_of(self.view, key.task) {
            let delta = if matches!(slot, SlotKey::Task(..)) { runs + waits } else { runs };
            if delta != 0 {
                self.slot(slot, delta * count, limit);
            }
        }
        if waits != 0 {
            let settings = &self.view.dag.task(key.task).settings;
            let (pool, count) = (settings.pool.clone(), i64::from(settings.pool_slots));
            self.slot(SlotKey::Deferred(pool), waits * count, None);
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

/// The limits that an executing instance of a task takes from: the limit, how much, and how much there is.
pub(crate) fn slots_of(view: &RunView, task: TaskIdx) -> Vec<(SlotKey, i64, Option<i64>)> {
    let dag = &view.dag;
    let compiled = dag.task(task);
    let settings = &compiled.settings;
    let mut slots = vec![
        (SlotKey::Pool(settings.pool.clone()), i64::from(settings.pool_slots), None),
        (SlotKey::Dag(dag.id.clone()), 1, Some(i64::from(dag.settings.max_active_tasks))),
    ];
    if let Some(limit) = settings.max_active_tis_per_dag {
        slots.push((SlotKey::Task(dag.id.clone(), compiled.id.clone()), 1, Some(i64::from(limit))));
    }
    slots
}
