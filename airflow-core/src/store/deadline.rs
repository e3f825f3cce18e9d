//! By when runs should be done, kept until it is known whether they were.

use chrono::{DateTime, Utc};

use crate::id::RunPk;

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

/// A deadline that is not settled, with its run.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadlineRow {
    /// The run.
    pub run: RunRow,
    /// Its name.
    pub name: String,
    /// When it is over.
    pub due: DateTime<Utc>,
}

impl DeadlineRow {
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
    /// It was missed: it is forgotten, and callbacks are to be told, in one transaction.
    Missed(Box<Notice>),
}
