//! When a task may run, given how its direct upstream tasks ended: the names of the rules.
//!
//! What each rule does with which counts is decided in `decide::rule`.

use crate::state::task::words;

words! {
    /// The condition on its direct upstream tasks under which a task runs.
    TriggerRule {
        /// All upstream tasks succeeded. The default.
        AllSuccess = "all_success",
        /// All upstream tasks failed.
        AllFailed = "all_failed",
        /// All upstream tasks are finished, no matter how.
        AllDone = "all_done",
        /// All upstream tasks are finished, none was skipped and at least one succeeded.
        AllDoneMinOneSuccess = "all_done_min_one_success",
        /// All upstream tasks are finished and at least one setup succeeded: the rule of teardowns.
        AllDoneSetupSuccess = "all_done_setup_success",
        /// All upstream tasks were skipped.
        AllSkipped = "all_skipped",
        /// At least one upstream task succeeded; does not wait for the others.
        OneSuccess = "one_success",
        /// At least one upstream task failed; does not wait for the others.
        OneFailed = "one_failed",
        /// At least one upstream task succeeded or failed; does not wait for the others.
        OneDone = "one_done",
        /// No upstream task failed: all succeeded or were skipped.
        NoneFailed = "none_failed",
        /// No upstream task failed and at least one succeeded.
        NoneFailedMinOneSuccess = "none_failed_min_one_success",
        /// All upstream tasks are finished and none was skipped.
        NoneSkipped = "none_skipped",
        /// Runs at once, whatever happens upstream.
        Always = "always",
    }
}

impl TriggerRule {
    /// Reads the name of a rule, the names of older versions included.
    ///
    /// # Errors
    ///
    /// [`crate::state::task::UnknownWord`] lists the rules that exist.
    pub fn parse(text: &str) -> Result<Self, crate::state::task::UnknownWord> {
        match text {
            "dummy" => Ok(Self::Always),
            "none_failed_or_skipped" => Ok(Self::NoneFailedMinOneSuccess),
            _ => text.parse(),
        }
    }

    /// Whether the rule can hold before all upstream tasks are finished.
    pub const fn is_fast(self) -> bool {
        matches!(self, Self::OneSuccess | Self::OneFailed | Self::OneDone | Self::Always)
    }
}

words! {
    /// How the weights of other tasks add to the priority of a task.
    WeightRule {
        /// Own weight plus that of every task downstream. The default: what unblocks most goes first.
        Downstream = "downstream",
        /// Own weight plus that of every task upstream: runs that are far go first.
        Upstream = "upstream",
        /// Own weight only.
        Absolute = "absolute",
    }
}
