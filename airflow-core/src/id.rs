//! The names of things: dags, tasks, runs, attempts.
//!
//! Ids shown to people are text ([`DagId`], [`TaskId`], [`RunId`]); cheap to clone and compared byte by byte.
//! Inside one compiled dag a task is a dense index ([`TaskIdx`]); a stored run has a number ([`RunPk`]).

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The longest id that every supported database can index, in characters (Airflow's limit).
pub const MAX_ID_CHARS: usize = 250;

/// The longest group id, in characters; shorter than a task id because it becomes part of one.
pub const MAX_GROUP_ID_CHARS: usize = 200;

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Wraps text that is known to be a valid id, or is only compared with stored ids.
            pub fn new(text: impl AsRef<str>) -> Self {
                Self(Arc::from(text.as_ref()))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self::new(text)
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(Arc::from(text))
            }
        }

        impl From<&$name> for $name {
            fn from(id: &$name) -> Self {
                id.clone()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                &*self.0 == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                &*self.0 == *other
            }
        }
    };
}

text_id! {
    /// The name of a dag: letters, digits, `_`, `-` and `.`, at most 250 characters.
    DagId
}
text_id! {
    /// The name of a task inside its dag, with the ids of its groups in front: `group.task`.
    TaskId
}

text_id! {
    /// The name of a run inside its dag, such as `scheduled__2026-01-01T00:00:00+00:00`.
    RunId
}

#[cfg(feature = "sqlite")]
impl TaskId {
    /// The text itself, for a store that keeps it until it is written.
    pub(crate) fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

/// Why a text cannot be an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// Nothing was given.
    #[error("an id cannot be empty")]
    Empty,
    /// Longer than the limit.
    #[error("the id `{text}` has {len} characters, {max} are allowed")]
    TooLong {
        /// The text, cut.
        text: String,
        /// Its length in characters.
        len: usize,
        /// The limit that applies.
        max: usize,
    },
    /// A character that is not allowed.
    #[error("the id `{text}` contains {found:?}; allowed are letters, digits, {allowed}")]
    BadCharacter {
        /// The text.
        text: String,
        /// The first character that is not allowed.
        found: char,
        /// The marks that are allowed besides letters and digits.
        allowed: &'static str,
    },
}

fn check(text: &str, max: usize, dot: bool) -> Result<(), InvalidId> {
    if text.is_empty() {
        return Err(InvalidId::Empty);
    }
    let allowed = |c: char| c.is_alphanumeric() || c == '_' || c == '-' || (dot && c == '.');
    if let Some(found) = text.chars().find(|c| !allowed(*c)) {
        let allowed = if dot { "`_`, `-` and `.`" } else { "`_` and `-`" };
        return Err(InvalidId::BadCharacter { text: text.into(), found, allowed });
    }
    let len = text.chars().count();
    if len > max {
        return Err(InvalidId::TooLong { text: text.chars().take(40).collect::<String>() + "…", len, max });
    }
    Ok(())
}

/// Checks the id of a dag or the full id of a task.
///
/// # Errors
///
/// [`InvalidId`] names the first thing that is wrong.
pub fn check_id(text: &str) -> Result<(), InvalidId> {
    check(text, MAX_ID_CHARS, true)
}

/// Checks the id of a task group, which has no dots: dots separate groups.
///
/// # Errors
///
/// [`InvalidId`] names the first thing that is wrong.
pub fn check_group_id(text: &str) -> Result<(), InvalidId> {
    check(text, MAX_GROUP_ID_CHARS, false)
}

/// The position of a task in its compiled dag. Valid for that version of the dag only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TaskIdx(pub u32);

impl TaskIdx {
    /// The index as `usize`.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl From<usize> for TaskIdx {
    fn from(index: usize) -> Self {
        Self(u32::try_from(index).expect("a dag has fewer than 2^32 tasks"))
    }
}

/// Which instance of a mapped task; [`MapIndex::UNMAPPED`] (`-1`) for a task that is not mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MapIndex(pub i32);

impl MapIndex {
    /// The only instance of a task that is not mapped, or not expanded yet.
    pub const UNMAPPED: Self = Self(-1);

    /// The index of a mapped instance, `None` if it is not mapped.
    pub fn get(self) -> Option<u32> {
        u32::try_from(self.0).ok()
    }
}

impl From<u32> for MapIndex {
    fn from(index: u32) -> Self {
        Self(i32::try_from(index).expect("a mapped task has fewer than 2^31 instances"))
    }
}

impl fmt::Display for MapIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// One task instance of a run, by its dense task index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TiKey {
    /// The task.
    pub task: TaskIdx,
    /// The instance of the task.
    pub map: MapIndex,
}

impl TiKey {
    /// The instance of a task that is not mapped.
    pub fn single(task: TaskIdx) -> Self {
        Self { task, map: MapIndex::UNMAPPED }
    }
}

/// The number under which a store keeps a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunPk(pub i64);

impl fmt::Display for RunPk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// One try to execute a task instance. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AttemptId(pub Uuid);

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// One life of one process of ours: made at its start, never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IncarnationId(pub Uuid);

impl fmt::Display for IncarnationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What to append to the message about an unknown name: `; did you mean ..?` if a known one is near, else nothing.
///
/// ```
/// let known = ["sales", "stock"].map(str::to_owned);
/// assert_eq!(airflow_core::app::suggestion("sale", known.into_iter()), "; did you mean `sales`?");
/// ```
pub fn suggestion(name: &str, known: impl Iterator<Item = String>) -> String {
    let distance = |other: &str| {
        let mut row: Vec<usize> = (0..=other.chars().count()).collect();
        for (i, a) in name.chars().enumerate() {
            let mut before = row[0];
            row[0] = i + 1;
            for (j, b) in other.chars().enumerate() {
                let cost = usize::from(a != b);
                let next = (before + cost).min(row[j] + 1).min(row[j + 1] + 1);
                before = std::mem::replace(&mut row[j + 1], next);
            }
        }
        row[other.chars().count()]
    };
    let near = known.map(|other| (distance(&other), other)).min();
    match near {
        Some((distance, other)) if distance <= name.chars().count().div_ceil(3) => {
            format!("; did you mean `{other}`?")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: ids that people and every database can hold. Method: a table of edge cases.
    #[test]
    fn ids_are_checked_by_character_and_length() {
        for good in ["a", "a.b-c_1", "naïve", "日本", &"x".repeat(250)] {
            assert_eq!(check_id(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("", "an id cannot be empty"),
            ("a b", "the id `a b` contains ' '; allowed are letters, digits, `_`, `-` and `.`"),
            ("a/b", "the id `a/b` contains '/'; allowed are letters, digits, `_`, `-` and `.`"),
        ] {
            assert_eq!(check_id(bad).unwrap_err().to_string(), why);
        }
        assert!(matches!(check_id(&"x".repeat(251)), Err(InvalidId::TooLong { len: 251, max: 250, .. })));
        assert!(check_group_id("a.b").is_err());
    }
}
