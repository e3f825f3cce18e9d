//! Settles deadlines that are over, and has callbacks told of those that were missed.

use crate::compile::CompiledDag;
use crate::decide::deadline::{Facts, named, runs_before, settle};
use crate::store::{DeadlineRow, NoticeRow, Settlement, StoreResult};

use super::Scheduler;

/// How many are settled in one go: each is a small transaction.
const AT_ONCE: u32 = 100;

impl Scheduler {
    /// Asks for the first that is not settled.
    pub(super) async fn read_next_deadline(&mut self) -> StoreResult<()> {
        if !self.core.deadline_dags().is_empty() {
            let first = self.store.deadlines(self.core.deadline_dags(), None, 1).await?;
            self.core.know_next_deadline(first.first());
        }
        Ok(())
    }

    /// What has to be known to settle one.
    async fn facts_of(&self, row: &DeadlineRow, dag: &CompiledDag) -> StoreResult<Facts> {
        let mut facts = Facts::default();
        let Some(deadline) = named(dag, &row.name) else { return Ok(facts) };
        if deadline.task.is_some() {
            facts.instances = self.store.task_instances(row.run.pk).await?;
        }
        if let Some(filter) = runs_before(deadline, &row.run) {
            facts.before = self.store.runs(&filter).await?;
        }
        Ok(facts)
    }

    /// Each is settled in a transaction that compares, so that of several schedulers one tells.
    pub(super) async fn settle_deadlines(&mut self) -> StoreResult<()> {
        let now = self.clock.now();
        for row in self.store.deadlines(self.core.deadline_dags(), Some(now), AT_ONCE).await? {
            let Some(dag) = self.registry.get(&row.run.dag_id) else { continue };
            let settlement = settle(&row, dag, &self.facts_of(&row, dag).await?, now, self.process.id);
            let settled = self.store.settle_deadline(&row.key(), settlement.clone()).await?;
            if let (true, Settlement::Missed(notice)) = (settled, settlement) {
                tracing::warn!(dag = %dag.id, run = %row.run.run_id, deadline = row.name, "{}", notice.reason.as_deref().unwrap_or("a deadline was missed"));
                let told = NoticeRow {
                    run: row.run.pk,
                    dag_id: row.run.dag_id.clone(),
                    run_id: row.run.run_id.clone(),
                    logical_date: row.run.logical_date,
                    notice: *notice,
                };
                self.telling.tell(&self.registry, told);
            }
        }
        self.read_next_deadline().await
    }
}
