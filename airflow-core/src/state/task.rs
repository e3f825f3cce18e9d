//! The life of one task instance.
//!
//! [`TaskState::on`] is the only place that makes a [`Transition`], and a store writes no state without one: an
//! illegal state cannot be stored. Pure: no clock, no store, no randomness. The table of all legal transitions
//! stands in `task_states.txt` beside this file.

use std::ops::Index;

use super::IllegalTransition;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
        )]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $text)] $variant),+ }

        impl $name {
            /// All values, in the order of their declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word that is stored and shown.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = crate::state::task::UnknownWord;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::ALL.iter().copied().find(|v| v.as_str() == text).ok_or_else(|| {
                    crate::state::task::UnknownWord {
                        text: text.to_owned(),
                        allowed: Self::ALL.iter().map(|v| v.as_str()).collect::<Vec<_>>().join(", "),
                    }
                })
            }
        }
    };
}
pub(crate) use words;

/// A word that is none of the allowed ones.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is none of {allowed}")]
pub struct UnknownWord {
    pub(crate) text: String,
    pub(crate) allowed: String,
}

words! {
    /// Where a task instance stands.
    TaskState {
        /// Not decided yet: it waits for its upstream tasks. Shown as `no_status`.
        None = "none",
        /// Ready: everything it depends on holds; it waits for a slot.
        Scheduled = "scheduled",
        /// Handed to an executor that runs elsewhere; nobody has claimed it yet.
        Queued = "queued",
        /// An attempt is running.
        Running = "running",
        /// Done.
        Success = "success",
        /// Failed for good.
        Failed = "failed",
        /// Not executed on purpose.
        Skipped = "skipped",
        /// Not executed because something upstream failed.
        UpstreamFailed = "upstream_failed",
        /// The last attempt failed; the next one waits for its time.
        UpForRetry = "up_for_retry",
        /// A sensor that asked to be run again at a given time.
        UpForReschedule = "up_for_reschedule",
        /// Waiting for an outside event, without a slot.
        Deferred = "deferred",
        /// Cleared while running: it starts over once the running attempt has ended.
        Restarting = "restarting",
        /// The task or map index is no longer part of the dag.
        Removed = "removed",
    }
}

impl TaskState {
    /// How many states there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Whether nothing happens any more unless a user acts.
    pub const fn is_finished(self) -> bool {
        matches!(self, Self::Success | Self::Failed | Self::Skipped | Self::UpstreamFailed | Self::Removed)
    }

    /// Whether it ended badly: failed itself, or because of its upstream.
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::UpstreamFailed)
    }

    /// Whether it ended well: done, or skipped on purpose.
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Success | Self::Skipped)
    }

    /// Whether an attempt exists that may be executing.
    pub const fn is_executing(self) -> bool {
        matches!(self, Self::Queued | Self::Running | Self::Restarting)
    }

    /// Whether the scheduler may still decide to start it.
    pub const fn is_schedulable(self) -> bool {
        matches!(self, Self::None | Self::UpForRetry | Self::UpForReschedule)
    }

    /// Answers `event` with the change of state it causes.
    ///
    /// # Errors
    ///
    /// [`IllegalTransition`] if `event` cannot happen here: the caller decided on an old view and must load a new
    /// one before it decides again.
    pub fn on(self, event: TaskEvent) -> Result<Transition, IllegalTransition> {
        use TaskEvent as E;
        use TaskState as S;
        let to = match (self, event) {
            (S::None | S::UpForRetry | S::UpForReschedule | S::Deferred, E::Ready) => S::Scheduled,
            (S::None | S::UpForRetry | S::UpForReschedule | S::Scheduled, E::Launched) => S::Running,
            (S::None | S::UpForRetry | S::UpForReschedule | S::Scheduled, E::Enqueued) => S::Queued,
            (S::None | S::UpForRetry | S::Scheduled, E::Elided) => S::Success,
            (S::Queued, E::Claimed) => S::Running,
            // What a deferred instance waits for may end it without another attempt.
            (S::Running | S::Deferred, E::Succeeded) => S::Success,
            (S::Running | S::Queued | S::Deferred, E::Failed) => S::Failed,
            (S::Running | S::Queued | S::Deferred, E::Retried) => S::UpForRetry,
            (S::Running | S::Deferred, E::Skipped) => S::Skipped,
            (S::Running, E::Rescheduled) => S::UpForReschedule,
            (S::Running, E::Deferred) => S::Deferred,
            // A lost or handed-back attempt costs no retry: its instance stands where it stood before the start.
            (S::Running | S::Queued, E::Lost | E::HandedBack) => S::Scheduled,
            (S::Running | S::Queued, E::GivenUp) => S::Failed,
            (S::Restarting, E::Ended | E::Lost | E::HandedBack | E::GivenUp) => S::None,
            (S::None | S::UpForRetry | S::UpForReschedule | S::Scheduled | S::Deferred, E::RuleSkipped) => {
                S::Skipped
            }
            (S::None | S::UpForRetry | S::UpForReschedule | S::Scheduled, E::RuleFailed) => S::UpstreamFailed,
            // A branch decides late and wins over whatever a downstream task has done since.
            (from, E::BranchSkipped) if from != S::Skipped && from != S::Removed => S::Skipped,
            (from, E::Stopped) if !from.is_finished() => match from {
                S::Running | S::Queued | S::Restarting => S::Failed,
                _ => S::Skipped,
            },
            (from, E::TimedOut) if !from.is_finished() => S::Skipped,
            (S::Running, E::Cleared) => S::Restarting,
            (from, E::Cleared) if from != S::None && from != S::Restarting => S::None,
            (from, E::MarkedSuccess) if from != S::Success => S::Success,
            (from, E::MarkedFailed) if from != S::Failed => S::Failed,
            (from, E::MarkedSkipped) if from != S::Skipped => S::Skipped,
            (from, E::Removed) if from != S::Removed => S::Removed,
            (S::Removed, E::Restored) => S::None,
            // Refused by default: the late report of an attempt that was given up for lost must not revive it.
            _ => return Err(IllegalTransition { from: self.as_str(), event: event.as_str() }),
        };
        Ok(Transition { from: self, to, event })
    }
}

words! {
    /// What can happen to a task instance.
    TaskEvent {
        /// Everything it depends on holds.
        Ready = "ready",
        /// Dispatched and claimed at once by an executor in the same process.
        Launched = "launched",
        /// Dispatched to an executor elsewhere.
        Enqueued = "enqueued",
        /// A worker took the queued attempt.
        Claimed = "claimed",
        /// Has nothing to execute, so it is done without an executor.
        Elided = "elided",
        /// The attempt ended well.
        Succeeded = "succeeded",
        /// The attempt failed and no retry is left, or it said so.
        Failed = "failed",
        /// The attempt failed and another one follows.
        Retried = "retried",
        /// The task body asked to be skipped.
        Skipped = "skipped",
        /// The task body asked to be run again later.
        Rescheduled = "rescheduled",
        /// The task body handed over to a trigger.
        Deferred = "deferred",
        /// The process that ran the attempt died.
        Lost = "lost",
        /// The process that ran the attempt gives it back while it stops.
        HandedBack = "handed_back",
        /// Its processes died too often.
        GivenUp = "given_up",
        /// The attempt of a cleared instance ended.
        Ended = "ended",
        /// Its trigger rule says that it is not to run.
        RuleSkipped = "rule_skipped",
        /// Its trigger rule cannot hold any more because something upstream failed.
        RuleFailed = "rule_failed",
        /// A branch or short circuit upstream did not choose it.
        BranchSkipped = "branch_skipped",
        /// The run stops at the first failure (`fail_fast`), or a user failed the run.
        Stopped = "stopped",
        /// The run took longer than its limit.
        TimedOut = "timed_out",
        /// A user asked to run it again.
        Cleared = "cleared",
        /// A user declared it done.
        MarkedSuccess = "marked_success",
        /// A user declared it failed.
        MarkedFailed = "marked_failed",
        /// A user declared it skipped.
        MarkedSkipped = "marked_skipped",
        /// The dag or the mapped length no longer has it.
        Removed = "removed",
        /// It is part of the dag again.
        Restored = "restored",
    }
}

/// A legal change of state. Made by [`TaskState::on`] only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Transition {
    from: TaskState,
    to: TaskState,
    event: TaskEvent,
}

impl Transition {
    /// The state before.
    pub fn from(self) -> TaskState {
        self.from
    }

    /// The state after.
    pub fn to(self) -> TaskState {
        self.to
    }

    /// What caused it.
    pub fn event(self) -> TaskEvent {
        self.event
    }
}

/// How many task instances are in each state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts([u32; TaskState::COUNT]);

impl Counts {
    /// Adds one instance in `state`.
    pub fn add(&mut self, state: TaskState) {
        self.0[state as usize] += 1;
    }

    /// Takes one instance in `state` away.
    ///
    /// # Panics
    ///
    /// If there is none: the counts no longer match the instances.
    pub fn remove(&mut self, state: TaskState) {
        let count = &mut self.0[state as usize];
        *count = count.checked_sub(1).expect("counts follow the instances they count");
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(mine, theirs)| *mine += theirs);
    }

    /// Takes `old` away and adds `new`.
    ///
    /// # Panics
    ///
    /// If `old` is not part of the counts.
    pub fn replace(&mut self, old: &Self, new: &Self) {
        for ((mine, old), new) in self.0.iter_mut().zip(old.0).zip(new.0) {
            *mine = mine.checked_sub(old).expect("counts follow the instances they count") + new;
        }
    }

    /// All instances.
    pub fn total(&self) -> u32 {
        self.0.iter().sum()
    }

    /// The instances in a state for which `pick` holds.
    pub fn sum(&self, pick: impl Fn(TaskState) -> bool) -> u32 {
        TaskState::ALL.iter().filter(|s| pick(**s)).map(|s| self[*s]).sum()
    }

    /// Finished instances.
    pub fn finished(&self) -> u32 {
        self.sum(TaskState::is_finished)
    }
}

impl Index<TaskState> for Counts {
    type Output = u32;

    fn index(&self, state: TaskState) -> &u32 {
        &self.0[state as usize]
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    /// Goal: no transition appears or vanishes unnoticed. Method: try every event in every state and compare what
    /// is legal with the table that stands beside the code.
    #[test]
    fn legal_transitions_match_the_documented_table() {
        let mut legal = String::new();
        for state in TaskState::ALL {
            for event in TaskEvent::ALL {
                if let Ok(change) = state.on(*event) {
                    writeln!(legal, "{state} --{event}--> {}", change.to()).unwrap();
                }
            }
        }
        assert_eq!(legal, include_str!("task_states.txt"), "{legal}");
    }

    #[test]
    fn no_event_leaves_a_state_unchanged() {
        for state in TaskState::ALL {
            for event in TaskEvent::ALL {
                if let Ok(change) = state.on(*event) {
                    assert_ne!(change.from(), change.to(), "{state} {event}");
                }
            }
        }
    }
}
