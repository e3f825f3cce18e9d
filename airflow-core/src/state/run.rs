//! The life of one run of a dag.

use super::IllegalTransition;
use super::task::words;

words! {
    /// Where a run stands.
    RunState {
        /// Created; it waits for its time, for the dag to be unpaused, or for `max_active_runs`.
        Queued = "queued",
        /// Its tasks are being executed.
        Running = "running",
        /// All leaves ended well.
        Success = "success",
        /// A leaf failed, the run was stuck, or it took too long.
        Failed = "failed",
    }
}

words! {
    /// Where a run comes from. The word is the prefix of its run id.
    RunType {
        /// Made for a range of past dates on request.
        Backfill = "backfill",
        /// Made by the timetable.
        Scheduled = "scheduled",
        /// Made by a person, a program or another dag.
        Manual = "manual",
        /// Made by assets that were updated.
        AssetTriggered = "asset_triggered",
        /// Made on request, to bring an asset up to date.
        AssetMaterialization = "asset_materialization",
    }
}

words! {
    /// What can happen to a run.
    RunEvent {
        /// A place among the active runs was free.
        Started = "started",
        /// All leaves ended well.
        Succeeded = "succeeded",
        /// A leaf failed.
        Failed = "failed",
        /// Tasks wait that can never run.
        Deadlocked = "deadlocked",
        /// It took longer than `dagrun_timeout`.
        TimedOut = "timed_out",
        /// A user asked to run some of its tasks again.
        Cleared = "cleared",
        /// A user declared it done.
        MarkedSuccess = "marked_success",
        /// A user declared it failed.
        MarkedFailed = "marked_failed",
    }
}

impl RunType {
    /// Where a run with this id comes from: its prefix says so. Any other id is that of a manual run.
    ///
    /// ```
    /// use airflow_core::state::RunType;
    ///
    /// assert_eq!(RunType::of_run_id("scheduled__2026-01-01T00:00:00+00:00"), RunType::Scheduled);
    /// assert_eq!(RunType::of_run_id("order-17"), RunType::Manual);
    /// ```
    pub fn of_run_id(run_id: &str) -> Self {
        let begins =
            |kind: &&Self| run_id.strip_prefix(kind.as_str()).is_some_and(|rest| rest.starts_with("__"));
        Self::ALL.iter().find(begins).copied().unwrap_or(Self::Manual)
    }
}

impl RunType {
    /// Whether the logical date tells its runs apart: of these a dag has one for each date.
    pub const fn is_timed(self) -> bool {
        matches!(self, Self::Backfill | Self::Scheduled)
    }
}

impl RunState {
    /// Whether nothing happens any more unless a user acts.
    pub const fn is_finished(self) -> bool {
        matches!(self, Self::Success | Self::Failed)
    }

    /// Answers `event` with the change of state it causes.
    ///
    /// # Errors
    ///
    /// [`IllegalTransition`] if `event` cannot happen here.
    pub fn on(self, event: RunEvent) -> Result<RunTransition, IllegalTransition> {
        use RunEvent as E;
        use RunState as S;
        let to = match (self, event) {
            (S::Queued, E::Started) => S::Running,
            (S::Running, E::Succeeded) | (S::Queued | S::Running | S::Failed, E::MarkedSuccess) => S::Success,
            (S::Running, E::Failed | E::Deadlocked | E::TimedOut)
            | (S::Queued | S::Running | S::Success, E::MarkedFailed) => S::Failed,
            (S::Running | S::Success | S::Failed, E::Cleared) => S::Queued,
            _ => return Err(IllegalTransition { from: self.as_str(), event: event.as_str() }),
        };
        Ok(RunTransition { from: self, to, event })
    }
}

/// A legal change of a run's state. Made by [`RunState::on`] only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RunTransition {
    from: RunState,
    to: RunState,
    event: RunEvent,
}

impl RunTransition {
    /// The state before.
    pub fn from(self) -> RunState {
        self.from
    }

    /// The state after.
    pub fn to(self) -> RunState {
        self.to
    }

    /// What caused it.
    pub fn event(self) -> RunEvent {
        self.event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the table of run transitions is what the documentation says. Method: list all that is legal.
    #[test]
    fn legal_transitions_match_the_documented_table() {
        let mut legal: Vec<String> = Vec::new();
        for state in RunState::ALL {
            for event in RunEvent::ALL {
                if let Ok(change) = state.on(*event) {
                    legal.push(format!("{state} --{event}--> {}", change.to()));
                }
            }
        }
        let documented: Vec<&str> = include_str!("run_states.txt").lines().collect();
        assert_eq!(legal, documented, "{}", legal.join("\n"));
    }
}
