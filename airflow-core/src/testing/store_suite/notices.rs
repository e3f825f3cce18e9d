//! What callbacks are to be told.

use uuid::Uuid;

use crate::id::{IncarnationId, MapIndex};
use crate::state::{RunEvent, TaskEvent, TaskState};
use crate::store::{Notice, NoticeRow, SharedStore, StoreResult, UnitResult};

use super::{at, change, commit, one_run, run_change, unit};

fn notice(task: Option<&str>, epoch: u32) -> Notice {
    Notice {
        task_id: task.map(Into::into),
        map_index: MapIndex::UNMAPPED,
        epoch,
        event: "failure".into(),
        try_number: 2,
        reason: Some("a \"reason\"".into()),
        at: at(50),
        owner: IncarnationId(Uuid::from_u128(1)),
    }
}

/// Notices come with the unit they are written with or not at all, change hands once, and stay until they are deleted.
///
/// # Errors
///
/// What the store said when it failed.
///
/// # Panics
///
/// If the store does not keep this.
pub async fn notices_wait_until_they_are_told(store: SharedStore) -> StoreResult<()> {
    let run = one_run(&store).await?;
    let mut both = unit(&run);
    both.tis = vec![change("a", TaskState::None, TaskEvent::Launched, 0)];
    both.run_change = Some(run_change(&run, RunEvent::Started));
    both.notices = vec![notice(Some("a"), 1), notice(None, 0)];
    assert_eq!(commit(&store, both.clone()).await?, UnitResult::Committed);
    let row = |notice| NoticeRow {
        run: run.pk,
        dag_id: run.dag_id.clone(),
        run_id: run.run_id.clone(),
        logical_date: run.logical_date,
        notice,
    };
    let (of_run, of_task) = (row(notice(None, 0)), row(notice(Some("a"), 1)));
    assert_eq!(store.notices().await?, [of_run.clone(), of_task.clone()]);

    let mut stale = both;
    stale.notices = vec![notice(Some("b"), 1)];
    assert_eq!(commit(&store, stale).await?, UnitResult::Stale);
    assert_eq!(store.notices().await?.len(), 2, "nothing of a refused unit is written");

    let [one, two, three] = [1, 2, 3].map(|id| IncarnationId(Uuid::from_u128(id)));
    assert!(store.take_notice(&of_task.key(), one, two).await?);
    assert!(!store.take_notice(&of_task.key(), one, three).await?, "it is another one's now");
    let taken = Notice { owner: two, ..notice(Some("a"), 1) };
    assert_eq!(store.notices().await?, [of_run.clone(), row(taken)]);

    store.delete_notices(vec![of_task.key(), of_task.key()]).await?;
    assert!(!store.take_notice(&of_task.key(), two, three).await?, "it is gone");
    assert_eq!(store.notices().await?, [of_run]);
    store.delete_run(run.pk).await?;
    assert_eq!(store.notices().await?, []);
    Ok(())
}
