//! Units of a commit, applied to the rows of a memory store.

#[cfg(feature = "testing")]
use crate::id::RunPk;
use crate::store::judge::{View, net_slots, ti_of};
use crate::store::rules::storable;
use crate::store::{AttemptEndData, AttemptStart, AttemptState, Unit, UnitResult};

use super::{AttemptRow, BTreeMap, EventRow, RunState, SlotKey, State, TiData, micros, remove_of_run};

impl State {
    /// As `commit`; what the store is blind for is told as the unit wants it.
    #[cfg(feature = "testing")]
    pub(in crate::store::memory) fn commit_blind(
        &mut self,
        units: &[Unit],
        blind: Option<crate::store::memory::Blind>,
    ) -> Vec<UnitResult> {
        use crate::state::TaskEvent;
        use crate::store::memory::Blind;
        let Some(blind) = blind else { return self.commit(units) };
        let one = |unit: &Unit| {
            let mut view = self.view(std::slice::from_ref(unit));
            for change in &unit.tis {
                let ti = (unit.run, change.task_id.clone(), change.map_index);
                let stored = view.tis.entry(ti).or_insert((crate::state::TaskState::None, 0));
                match blind {
                    Blind::Epoch => stored.1 = change.epoch,
                    Blind::State => stored.0 = change.transition.from(),
                    Blind::Claim if change.transition.event() == TaskEvent::Claimed => {
                        *stored = (change.transition.from(), change.epoch);
                    }
                    Blind::Generation | Blind::ClearedEpoch | Blind::Claim | Blind::Values => {}
                }
            }
            if let (Blind::Generation, Some(run)) = (blind, view.runs.get_mut(&unit.run)) {
                run.0 = unit.generation;
            }
            if blind == Blind::Claim {
                for start in &unit.started {
                    view.attempts.entry(start.attempt_id).and_modify(|known| known.2 = AttemptState::Queued);
                }
            }
            let result = self.write(std::slice::from_ref(unit), view).remove(0);
            if blind == Blind::ClearedEpoch && unit.by_user && result == UnitResult::Committed {
                for change in &unit.tis {
                    let ti = (unit.run, change.task_id.clone(), change.map_index);
                    self.tis.entry(ti).and_modify(|stored| stored.1 = change.epoch);
                }
            }
            result
        };
        units.iter().map(one).collect()
    }

    /// A run is in the generation before: what a store does that overlooks it.
    #[cfg(feature = "testing")]
    pub(in crate::store::memory) fn set_generation_back(&mut self, run: RunPk) {
        self.runs.entry(run).and_modify(|run| run.generation -= 1);
    }

    pub(in crate::store::memory) fn commit(&mut self, units: &[Unit]) -> Vec<UnitResult> {
        let view = self.view(units);
        self.write(units, view)
    }

    fn write(&mut self, units: &[Unit], mut view: View) -> Vec<UnitResult> {
        units
            .iter()
            .map(|unit| {
                let result = view.judge(unit);
                if result == UnitResult::Committed {
                    self.apply(unit);
                }
                result
            })
            .collect()
    }

    /// The rows that the units name.
    fn view(&self, units: &[Unit]) -> View {
        let mut view = View::default();
        for unit in units {
            if let Some(run) = self.runs.get(&unit.run) {
                view.runs.insert(unit.run, (run.generation, run.state));
            }
            for change in &unit.tis {
                let ti = (unit.run, change.task_id.clone(), change.map_index);
                if let Some((state, epoch, _)) = self.tis.get(&ti) {
                    view.tis.insert(ti, (*state, *epoch));
                }
            }
            let ended = unit.ended.iter().map(|end| end.attempt_id);
            for id in unit.started.iter().map(|start| start.attempt_id).chain(ended) {
                if let Some((ti, number)) = self.attempt_keys.get(&id)
                    && let Some(row) = self.attempts.get(&(ti.clone(), *number))
                {
                    view.attempts.insert(id, (ti.clone(), *number, row.state));
                }
            }
            for start in &unit.started {
                let key = (ti_of(unit.run, start), start.number);
                if self.attempts.contains_key(&key) {
                    view.numbers.insert(key);
                }
            }
            for net in net_slots(unit) {
                let used = self.slots.get(&net.key).copied().unwrap_or(0);
                if let SlotKey::Pool(name) = &net.key {
                    let deferred = SlotKey::Deferred(name.clone());
                    let count = self.slots.get(&deferred).copied().unwrap_or(0);
                    view.used.insert(deferred, count);
                }
                view.used.insert(net.key, used);
            }
        }
        view.pools =
            self.pools.values().map(|pool| (pool.name.clone(), pool.slots)).collect::<BTreeMap<_, _>>();
        let with_deferred = self.pools.values().filter(|pool| pool.include_deferred);
        view.with_deferred = with_deferred.map(|pool| pool.name.clone()).collect();
        view
    }

    fn apply(&mut self, unit: &Unit) {
        self.apply_to_run(unit);
        for change in &unit.tis {
            let ti = (unit.run, change.task_id.clone(), change.map_index);
            let epoch = change.epoch + 1;
            let event = EventRow {
                task_id: change.task_id.clone(),
                map_index: change.map_index,
                epoch,
                from: change.transition.from(),
                to: change.transition.to(),
                event: change.transition.event(),
                actor: storable(&unit.actor).into_owned(),
                at: micros(unit.at),
            };
            self.events.insert((ti.clone(), epoch), event);
            self.tis.insert(ti, (change.transition.to(), epoch, cut(&change.data)));
        }
        for expansion in &unit.expansions {
            self.expansions.insert((unit.run, expansion.owner.clone()), expansion.length);
        }
        for (task, map_index) in &unit.xcom_clears {
            remove_of_run(&mut self.xcoms, unit.run, Some((task, *map_index)), String::new());
        }
        for xcom in &unit.xcoms {
            self.write_xcom(unit.run, xcom, unit.at);
        }
        self.apply_attempts(unit);
        for notice in &unit.notices {
            self.insert_notice(unit.run, notice);
        }
        unit.asset_events.iter().for_each(|event| self.add_asset_event(event));
        self.add_log_chunks(unit.logs.clone());
        for net in net_slots(unit) {
            let used = self.slots.entry(net.key).or_default();
            *used = used.saturating_add(net.delta).max(0);
        }
    }

    fn apply_to_run(&mut self, unit: &Unit) {
        let row = self.runs.get_mut(&unit.run).expect("a unit that is committed has a run");
        row.generation += u32::from(unit.by_user);
        if let Some(change) = &unit.run_change {
            row.state = change.transition.to();
            row.started_at = change.started_at.map(micros);
            row.ended_at = change.ended_at.map(micros);
            row.reason = stored(change.reason.as_ref());
            if row.state == RunState::Queued {
                row.queued_at = micros(unit.at);
            }
            if row.state.is_finished() {
                self.active.remove(&unit.run);
            } else {
                self.active.insert(unit.run);
            }
        }
    }

    fn apply_attempts(&mut self, unit: &Unit) {
        for start in &unit.started {
            let key = (ti_of(unit.run, start), start.number);
            self.attempt_keys.insert(start.attempt_id, key.clone());
            if let Some(queued) = self.attempts.get_mut(&key) {
                queued.state = AttemptState::Running;
                queued.start.state = AttemptState::Running;
                queued.start.incarnation = start.incarnation;
                continue;
            }
            let start = AttemptStart { at: micros(start.at), ..start.clone() };
            if !start.state.is_ended() {
                self.open.insert(key.clone());
            }
            self.attempts.insert(key, AttemptRow { run: unit.run, state: start.state, start, end: None });
        }
        for end in &unit.ended {
            let Some(key) = self.attempt_keys.get(&end.attempt_id) else { continue };
            let Some(row) = self.attempts.get_mut(key) else { continue };
            if row.run == unit.run && !row.state.is_ended() {
                row.state = end.state;
                let error = stored(end.data.error.as_ref());
                row.end = Some(AttemptEndData { at: micros(end.data.at), error, ..end.data.clone() });
                if end.state.is_ended() {
                    self.open.remove(key);
                }
            }
        }
    }
}

/// A text as all stores keep it.
fn stored(text: Option<&String>) -> Option<String> {
    text.map(|text| storable(text).into_owned())
}

fn cut(data: &TiData) -> TiData {
    TiData {
        next_try_at: data.next_try_at.map(micros),
        started_at: data.started_at.map(micros),
        ended_at: data.ended_at.map(micros),
        reason: stored(data.reason.as_ref()),
        ..data.clone()
    }
}
