//! What is said of a process that ended without a report.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

/// Signals that people meet, and what they mean for an attempt.
const SIGNALS: &[(i32, &str, &str)] = &[
    (4, "SIGILL", "its code is broken"),
    (
        6,
        "SIGABRT",
        "its code gave up (an abort, a stack that overflowed); the output of the program says more",
    ),
    (7, "SIGBUS", "its code reached memory that is not there"),
    (8, "SIGFPE", "its code calculated what cannot be"),
    (9, "SIGKILL", "somebody killed the process of the attempt, or the system did because memory was short"),
    (11, "SIGSEGV", "its code reached memory that is not its own"),
    (15, "SIGTERM", "somebody stopped the process of the attempt"),
];

/// How it ended, for people. `began` says whether it came as far as its attempt.
pub(super) fn text(status: ExitStatus, began: bool) -> String {
    if let Some(signal) = status.signal() {
        let known = SIGNALS.iter().find(|(number, ..)| *number == signal);
        let (name, why) =
            known.map_or(("", "the process of the attempt is gone"), |(_, name, why)| (name, why));
        let name = if name.is_empty() { String::new() } else { format!(" ({name})") };
        return format!("killed by signal {signal}{name}: {why}");
    }
    let code = status.code().unwrap_or(-1);
    if began {
        return format!(
            "the process of the attempt ended with exit code {code} before the attempt did; code of tasks must not \
             end the process"
        );
    }
    format!(
        "the process of the attempt ended with exit code {code} before it came to the attempt; started again with the \
         same arguments, the program must build its application: with `airflow::cli`, or `AirflowBuilder::build`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_has_its_words() {
        // As wait(2) tells: the signal, or the exit code in the second byte.
        for (raw, began, beginning) in [
            (9, true, "killed by signal 9 (SIGKILL): somebody killed the process"),
            (64, true, "killed by signal 64: the process of the attempt is gone"),
            (3 << 8, true, "the process of the attempt ended with exit code 3 before the attempt did"),
            (
                2 << 8,
                false,
                "the process of the attempt ended with exit code 2 before it came to the attempt",
            ),
        ] {
            let text = text(ExitStatus::from_raw(raw), began);
            assert!(text.starts_with(beginning), "{text}");
        }
    }
}
