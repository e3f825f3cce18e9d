//! What callbacks are to be told.

use crate::id::{IncarnationId, RunPk};
use crate::store::rules::{micros, storable};
use crate::store::{Notice, NoticeKey, NoticeRow};

use super::State;

impl State {
    pub(in crate::store::memory) fn notices(&self) -> Vec<NoticeRow> {
        let row = |(key, notice): (&NoticeKey, &crate::store::Notice)| {
            let run = self.runs.get(&key.run)?;
            Some(NoticeRow {
                run: key.run,
                dag_id: run.dag_id.clone(),
                run_id: run.run_id.clone(),
                logical_date: run.logical_date,
                notice: notice.clone(),
            })
        };
        self.notices.iter().filter_map(row).collect()
    }

    pub(super) fn insert_notice(&mut self, run: RunPk, notice: &Notice) {
        let reason = notice.reason.as_deref().map(|text| storable(text).into_owned());
        let told = Notice { at: micros(notice.at), reason, ..notice.clone() };
        self.notices.insert(notice.key(run), told);
    }

    pub(in crate::store::memory) fn take_notice(
        &mut self,
        key: &NoticeKey,
        from: IncarnationId,
        to: IncarnationId,
    ) -> bool {
        let notice = self.notices.get_mut(key).filter(|notice| notice.owner == from);
        notice.map(|notice| notice.owner = to).is_some()
    }

    pub(in crate::store::memory) fn delete_notice(&mut self, key: &NoticeKey) {
        self.notices.remove(key);
    }
}
