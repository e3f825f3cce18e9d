//! Old rows.

use std::collections::BTreeSet;

use crate::id::{DagId, IncarnationId, RunPk};
use crate::store::rules::ceil_micros;
use crate::store::{Old, OldKey, OldRow, OldTable, RunRow};
use crate::xcom::SKIP_KEY;

use super::State;

impl State {
    /// All rows of a table that are old, in the order of the contract.
    pub(in crate::store::memory) fn old_rows(&self, old: &Old) -> Vec<OldRow> {
        let before = ceil_micros(old.before);
        let of_dag = |dag: Option<&DagId>| {
            (old.dags.is_empty() || dag.is_some_and(|dag| old.dags.contains(dag)))
                && !dag.is_some_and(|dag| old.not_dags.contains(dag))
        };
        let ended = |row: &RunRow| {
            row.state.is_finished() && row.ended_at.is_some_and(|at| at < before) && of_dag(Some(&row.dag_id))
        };
        match old.table {
            OldTable::XComs => {
                let values = self.xcoms.values().filter(|row| row.key != SKIP_KEY);
                let of_run = |row: &crate::store::XComRow| self.runs.get(&row.run).filter(|run| ended(run));
                let found = values.filter_map(|row| of_run(row).map(|run| (run, row)));
                found
                    .map(|(run, row)| {
                        OldRow::XCom(run.dag_id.clone(), run.run_id.clone(), Box::new(row.clone()))
                    })
                    .collect()
            }
            OldTable::TaskLogs => {
                let dag = |attempt| {
                    let ((run, _, _), _) = self.attempt_keys.get(attempt)?;
                    self.runs.get(run).map(|run| &run.dag_id)
                };
                let all = self.task_logs.chunks.iter();
                let old = all.filter(|((attempt, _), row)| row.at < before && of_dag(dag(attempt)));
                let mut old: Vec<_> = old.map(|(key, row)| (row.at, key, row)).collect();
                old.sort_by_key(|(at, key, _)| (*at, *key));
                old.into_iter().map(|(_, _, row)| OldRow::TaskLog(Box::new(row.clone()))).collect()
            }
            OldTable::Runs => {
                let newest: BTreeSet<RunPk> =
                    self.dags.keys().filter_map(|dag| self.runs_of(dag).next_back()).collect();
                let old = self.runs.values().filter(|row| ended(row) && !newest.contains(&row.pk));
                old.map(|row| OldRow::Run(Box::new(row.clone()))).collect()
            }
            OldTable::Versions => {
                let used: BTreeSet<(&DagId, &str)> =
                    self.runs.values().map(|run| (&run.dag_id, run.fingerprint.as_str())).collect();
                let all = self.versions.iter().filter(|(dag, _)| of_dag(Some(dag)));
                let mut found: Vec<OldRow> = Vec::new();
                for (dag, versions) in all {
                    let current = self.dags.get(dag).map(|row| row.fingerprint.as_str());
                    let mut old: Vec<_> = versions
                        .iter()
                        .filter(|version| version.created_at < before)
                        .filter(|version| Some(version.fingerprint.as_str()) != current)
                        .filter(|version| !used.contains(&(dag, version.fingerprint.as_str())))
                        .collect();
                    old.sort_by_key(|version| version.number);
                    found.extend(old.into_iter().map(|v| OldRow::Version(dag.clone(), Box::new(v.clone()))));
                }
                found
            }
            OldTable::AssetEvents => {
                let mut old = self.assets.old(before);
                let dag = |event: &crate::store::AssetEvent| {
                    event.source.as_ref().map(|source| source.dag_id.clone())
                };
                old.retain(|event| of_dag(dag(event).as_ref()));
                old.into_iter().map(|event| OldRow::AssetEvent(Box::new(event))).collect()
            }
            OldTable::Watchers if of_dag(None) => {
                self.old_watchers(before).into_iter().map(|row| OldRow::Watcher(Box::new(row))).collect()
            }
            OldTable::Watchers => Vec::new(),
            OldTable::Audit => {
                let all = (0..).zip(&self.audit);
                let old = all.filter(|(_, entry)| entry.at < before && of_dag(entry.dag_id.as_ref()));
                let mut old: Vec<_> = old.collect();
                old.sort_by_key(|(number, entry)| (entry.at, *number));
                old.into_iter()
                    .map(|(number, entry)| OldRow::Audit(number, Box::new(entry.clone())))
                    .collect()
            }
            OldTable::Processes if of_dag(None) => self.old_processes(before),
            OldTable::Processes => Vec::new(),
        }
    }

    fn old_processes(&self, before: chrono::DateTime<chrono::Utc>) -> Vec<OldRow> {
        let busy: BTreeSet<IncarnationId> =
            self.open_attempts().filter_map(|row| row.start.incarnation).collect();
        let known = self.processes.known.iter();
        let old = known.filter(|(id, (_, ended))| ended.is_some_and(|at| at < before) && !busy.contains(id));
        old.map(|(id, _)| OldRow::Process(*id)).collect()
    }

    /// Deletes those of `keys` that are still old; says how many.
    pub(in crate::store::memory) fn delete_old(&mut self, old: &Old, keys: &[OldKey]) -> u64 {
        let keys: BTreeSet<&OldKey> = keys.iter().collect();
        let goes: BTreeSet<OldKey> =
            self.old_rows(old).iter().map(OldRow::key).filter(|key| keys.contains(key)).collect();
        for key in &goes {
            match key {
                OldKey::XCom(run, task, map_index, key) => {
                    self.xcoms.remove(&((*run, task.clone(), *map_index), key.clone()));
                }
                OldKey::TaskLog(attempt, chunk) => {
                    self.task_logs.chunks.remove(&(*attempt, *chunk));
                }
                OldKey::Run(run) => {
                    self.delete_run(*run);
                }
                OldKey::Version(dag, number) => {
                    let versions = self.versions.entry(dag.clone()).or_default();
                    versions.retain(|version| version.number != *number);
                }
                OldKey::AssetEvent(id) => self.assets.delete_event(id),
                OldKey::Watcher(key) => {
                    self.assets.watchers.remove(key);
                }
                OldKey::Audit(_) => {}
                OldKey::Process(id) => {
                    self.processes.known.remove(id);
                }
            }
        }
        let mut number = -1;
        self.audit.retain(|_| {
            number += 1;
            !goes.contains(&OldKey::Audit(number))
        });
        goes.len() as u64
    }
}
