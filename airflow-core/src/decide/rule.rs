//! The trigger rules: what the states of the direct upstream instances mean for a task.

use crate::state::{Counts, TaskState};
use crate::trigger_rule::TriggerRule;

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The task may run.
    Run,
    /// It is not decided yet.
    Wait,
    /// The task is not to run: it is skipped.
    Skip,
    /// The task cannot run because something upstream failed.
    Fail,
}

/// The direct upstream instances by state, and those of them that are setups.
#[derive(Debug, Clone, Copy, Default)]
pub struct Upstream {
    /// All of them.
    pub all: Counts,
    /// The setups among them.
    pub setups: Counts,
    /// Instances of mapped tasks that a shorter mapping no longer has: they do not count as missing.
    pub removed_mapped: u32,
}

/// Applies a rule. Conditions that set a final state come before the one that lets the task run, and do not wait for
/// all upstream instances unless the rule says so.
pub fn verdict(rule: TriggerRule, upstream: &Upstream) -> Verdict {
    use TriggerRule as R;
    let all = &upstream.all;
    let n = all.total();
    if n == 0 || rule == R::Always {
        return Verdict::Run;
    }
    let (success, skipped) = (all[TaskState::Success], all[TaskState::Skipped]);
    let (failed, upstream_failed) = (all[TaskState::Failed], all[TaskState::UpstreamFailed]);
    let bad = failed + upstream_failed;
    let counted = n - upstream.removed_mapped;
    let done = all.finished() >= n;
    let run_if = |condition| if condition { Verdict::Run } else { Verdict::Wait };
    match rule {
        R::AllSuccess if bad > 0 => Verdict::Fail,
        R::AllSuccess | R::NoneSkipped if skipped > 0 => Verdict::Skip,
        R::AllSuccess => run_if(success == counted),
        R::AllFailed if success + skipped > 0 => Verdict::Skip,
        R::AllFailed => run_if(bad == counted),
        R::AllDone => run_if(done),
        R::AllDoneMinOneSuccess if skipped > 0 => Verdict::Skip,
        R::AllDoneMinOneSuccess if done && success == 0 => Verdict::Fail,
        R::AllDoneMinOneSuccess => run_if(done && success > 0),
        R::AllDoneSetupSuccess => teardown(&upstream.setups, done),
        R::AllSkipped if success + bad > 0 => Verdict::Skip,
        R::AllSkipped => run_if(skipped == n),
        R::OneSuccess if success > 0 => Verdict::Run,
        R::OneSuccess if done && skipped == n => Verdict::Skip,
        R::OneSuccess => {
            if done {
                Verdict::Fail
            } else {
                Verdict::Wait
            }
        }
        R::OneFailed if bad > 0 => Verdict::Run,
        R::OneDone if success + failed > 0 => Verdict::Run,
        R::OneFailed | R::OneDone => {
            if done {
                Verdict::Skip
            } else {
                Verdict::Wait
            }
        }
        R::NoneFailed | R::NoneFailedMinOneSuccess if bad > 0 => Verdict::Fail,
        R::NoneFailedMinOneSuccess if skipped == n => Verdict::Skip,
        R::NoneFailed | R::NoneFailedMinOneSuccess => run_if(success + skipped == counted),
        R::NoneSkipped => run_if(done),
        R::Always => Verdict::Run,
    }
}

/// A teardown runs once all is done, if there is anything to clean up.
fn teardown(setups: &Counts, done: bool) -> Verdict {
    let all = setups.total();
    if !done {
        Verdict::Wait
    } else if all == 0 || setups[TaskState::Success] > 0 {
        Verdict::Run
    } else if setups[TaskState::Skipped] == all {
        Verdict::Skip
    } else {
        Verdict::Fail
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(states: &str) -> Upstream {
        let mut upstream = Upstream::default();
        for letter in states.chars() {
            upstream.all.add(match letter {
                'S' => TaskState::Success,
                'K' => TaskState::Skipped,
                'F' => TaskState::Failed,
                'U' => TaskState::UpstreamFailed,
                'R' => TaskState::Removed,
                _ => TaskState::Running,
            });
        }
        upstream
    }

    /// Goal: each rule does what the table in the documentation says. Method: the table, one line a rule; `-` is an
    /// upstream that is not finished.
    #[test]
    fn rules_follow_the_table() {
        use TriggerRule as R;
        use Verdict::{Fail, Run, Skip, Wait};
        let table: &[(R, &[(&str, Verdict)])] = &[
            (
                R::AllSuccess,
                &[
                    ("SS", Run),
                    ("S-", Wait),
                    ("F-", Fail),
                    ("U-", Fail),
                    ("K-", Skip),
                    ("KF", Fail),
                    ("SR", Wait),
                ],
            ),
            (R::AllFailed, &[("FU", Run), ("F-", Wait), ("S-", Skip), ("K-", Skip)]),
            (R::AllDone, &[("SFKU", Run), ("SF-", Wait), ("R", Run)]),
            (R::AllDoneMinOneSuccess, &[("SF", Run), ("FF", Fail), ("SK", Skip), ("S-", Wait)]),
            (R::AllSkipped, &[("KK", Run), ("K-", Wait), ("S-", Skip), ("F-", Skip)]),
            (R::OneSuccess, &[("S-", Run), ("F-", Wait), ("KK", Skip), ("FK", Fail)]),
            (R::OneFailed, &[("F-", Run), ("U-", Run), ("S-", Wait), ("SK", Skip)]),
            (R::OneDone, &[("S-", Run), ("F-", Run), ("U-", Wait), ("UK", Skip), ("K-", Wait)]),
            (R::NoneFailed, &[("SK", Run), ("KK", Run), ("S-", Wait), ("F-", Fail)]),
            (R::NoneFailedMinOneSuccess, &[("SK", Run), ("KK", Skip), ("K-", Wait), ("U-", Fail)]),
            (R::NoneSkipped, &[("SF", Run), ("K-", Skip), ("S-", Wait)]),
            (R::Always, &[("--", Run), ("FF", Run)]),
        ];
        for (rule, cases) in table {
            for (states, expected) in *cases {
                assert_eq!(verdict(*rule, &counts(states)), *expected, "{rule} on {states}");
            }
            assert_eq!(verdict(*rule, &Upstream::default()), Run, "{rule} without upstream");
        }
    }

    #[test]
    fn a_teardown_runs_if_a_setup_succeeded() {
        let with = |setups: &str, rest: &str| {
            let mut upstream = counts(&format!("{setups}{rest}"));
            upstream.setups = counts(setups).all;
            verdict(TriggerRule::AllDoneSetupSuccess, &upstream)
        };
        assert_eq!(with("S", "F"), Verdict::Run);
        assert_eq!(with("S", "-"), Verdict::Wait);
        assert_eq!(with("K", "S"), Verdict::Skip);
        assert_eq!(with("F", "U"), Verdict::Fail);
        assert_eq!(with("SF", "S"), Verdict::Run);
        assert_eq!(with("", "F"), Verdict::Run);
    }
}
