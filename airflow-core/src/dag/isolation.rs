//! What separates an attempt from the others.

use crate::state::task::words;

words! {
    /// Where the code of an attempt runs.
    Isolation {
        /// In the process of its executor or worker, beside others: the cheapest.
        None = "none",
        /// In a process of its own, made anew for each attempt: what crashes, or leaks, or cannot be stopped, takes
        /// nothing else along.
        Process = "process",
    }
}
