//! Rows of the logs of attempts, and of messages that were set aside.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::id::{AttemptId, MapIndex, RunPk, TaskId};

/// A piece of the log of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogChunk {
    /// The attempt.
    pub attempt_id: AttemptId,
    /// Orders the pieces of one attempt, and tells them apart.
    pub chunk: i64,
    /// When it was sent.
    pub at: DateTime<Utc>,
    /// Whole lines.
    pub text: String,
}

/// Up to where a log was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPlace {
    /// The number of the attempt among those of its instance.
    pub attempt: u32,
    /// The piece of its log.
    pub chunk: i64,
}

/// Which pieces of logs: those of one try of a task instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter {
    /// The run.
    pub run: RunPk,
    /// The task.
    pub task_id: TaskId,
    /// The instance.
    pub map_index: MapIndex,
    /// The try; it has several attempts if it waited in between.
    pub try_number: u32,
    /// Only what comes after this place.
    pub after: Option<LogPlace>,
    /// So many pieces at most.
    pub limit: u32,
}

/// A message of a broker that nobody of ours has sent, kept for people to look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadLetter {
    /// Made of its queue and its content: the same message has the same id. At most 64 characters.
    pub id: String,
    /// When it came first.
    pub at: DateTime<Utc>,
    /// The queue it came from.
    pub queue: String,
    /// What is wrong with it, a word.
    pub reason: String,
    /// What is wrong with it, for people.
    pub error: String,
    /// The id of the key that it claims to be signed with, if it is long enough to have one.
    pub key_id: Option<String>,
    /// How many bytes it has.
    pub size: u64,
    /// Its first bytes, escaped.
    pub head: String,
    /// Who set it aside.
    pub by: String,
}
