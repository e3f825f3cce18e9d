//! By when runs should be done, kept until it is known whether they were.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::compile::SLA;
use crate::id::{RunPk, TaskId};

use super::{Notice, RunRow};

/// A deadline of a run to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDeadline {
    /// Its name, unique in the run.
    pub name: String,
    /// When it is over.
    pub due: DateTime<Utc>,
}

/// Which deadline, as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadlineKey {
    /// The run.
    pub run: RunPk,
    /// Its name.
    pub name: String,
    /// When it is over.
    pub due: DateTime<Utc>,
}

/// A deadline that is not settled, or that was missed, with its run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeadlineRow {
    /// The run.
    pub run: RunRow,
    /// Its name.
    pub name: String,
    /// When it is over.
    pub due: DateTime<Utc>,
    /// When it was found to be missed.
    pub missed_at: Option<DateTime<Utc>>,
}

impl DeadlineRow {
    /// The task whose `sla` it is; `None` if it is of the whole run.
    pub fn task_id(&self) -> Option<TaskId> {
        self.name.strip_prefix(SLA).map(Into::into)
    }

    /// Its key.
    pub fn key(&self) -> DeadlineKey {
        DeadlineKey { run: self.run.pk, name: self.name.clone(), due: self.due }
    }
}

/// What becomes of a deadline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// It was met, or nobody asks for it any more: it is forgotten.
    Met,
    /// It is over later than was thought.
    Later(DateTime<Utc>),
    /// It was missed: that is kept until the run goes, and callbacks are to be told, in one transaction.
    Missed(Box<Notice>),
}
