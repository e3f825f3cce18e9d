//! By when a run should be done, and who is told if it is not.

use std::time::Duration;

use crate::callback::{Callback, IntoCallback};

use super::When;

/// Of how many runs the average is taken, if nothing else is said.
const AVERAGED_RUNS: u32 = 10;

/// From when the time of a deadline counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeadlineReference {
    /// The moment when the run was queued; after a clear, when it was queued again.
    QueuedAt,
    /// The logical date of the run.
    LogicalDate,
    /// A moment, for all runs.
    Fixed(When),
    /// The moment when the run was queued, and as long after it as the runs before took on average.
    AverageRuntime {
        /// How many runs are looked at, those of the latest logical dates that had ended by then.
        max_runs: u32,
        /// A run that fewer have gone before has no deadline.
        min_runs: u32,
    },
}

/// A deadline for the runs of a dag: if a run has not succeeded when it is over, its callbacks are called, once for each run,
/// while the run goes on. It changes nothing else; `dagrun_timeout` ends a run.
///
/// ```
/// use airflow_core::callback::CallbackContext;
/// use airflow_core::dag::{DagDef, DeadlineAlert, TaskExt};
/// use airflow_core::operator::Empty;
/// use airflow_core::time::{hours, mins};
///
/// async fn page(late: CallbackContext) {
///     println!("{} of {}: {}", late.run_id, late.dag_id, late.reason.unwrap_or_default());
/// }
///
/// let dag = DagDef::new("sales")
///     .schedule("@daily")
///     .deadline(DeadlineAlert::after_queued(mins(30)).call(page))
///     .deadline(DeadlineAlert::after_logical_date(hours(30)).named("by_six").call(page))
///     .define(|d| {
///         d.add(Empty::new().id("work"));
///     });
/// assert_eq!(dag.compile()?.settings.deadlines.len(), 2);
/// # Ok::<(), airflow_core::compile::DefinitionErrors>(())
/// ```
#[derive(Debug, Clone)]
pub struct DeadlineAlert {
    pub(crate) name: Option<String>,
    pub(crate) reference: DeadlineReference,
    pub(crate) after: Duration,
    pub(crate) callbacks: Vec<Callback>,
}

impl DeadlineAlert {
    fn new(reference: DeadlineReference, after: Duration) -> Self {
        Self { name: None, reference, after, callbacks: Vec::new() }
    }

    /// This long after a run was queued.
    pub fn after_queued(interval: Duration) -> Self {
        Self::new(DeadlineReference::QueuedAt, interval)
    }

    /// This long after the logical date of a run.
    pub fn after_logical_date(interval: Duration) -> Self {
        Self::new(DeadlineReference::LogicalDate, interval)
    }

    /// This much longer than runs take on average, from the moment when a run was queued: of the last ten that had ended
    /// by then, however they ended. A run that fewer than ten have gone before has no deadline;
    /// [`of_runs`](Self::of_runs) says other numbers.
    ///
    /// ```
    /// # use airflow_core::dag::DeadlineAlert;
    /// # use airflow_core::time::mins;
    /// let alert = DeadlineAlert::after_average_runtime(mins(15)).of_runs(3, 20);
    /// # drop(alert);
    /// ```
    pub fn after_average_runtime(interval: Duration) -> Self {
        let (max_runs, min_runs) = (AVERAGED_RUNS, AVERAGED_RUNS);
        Self::new(DeadlineReference::AverageRuntime { max_runs, min_runs }, interval)
    }

    /// Of how many runs the average is taken, at least and at most. Means nothing to other deadlines than
    /// [`after_average_runtime`](Self::after_average_runtime).
    #[must_use]
    pub fn of_runs(mut self, least: u32, most: u32) -> Self {
        if let DeadlineReference::AverageRuntime { max_runs, min_runs } = &mut self.reference {
            (*min_runs, *max_runs) = (least, most);
        }
        self
    }

    /// At this moment, the same for all runs; text is read in the time zone of the dag. A run that is made later has
    /// missed it.
    pub fn at(moment: impl Into<When>) -> Self {
        Self::new(DeadlineReference::Fixed(moment.into()), Duration::ZERO)
    }

    /// Its name among those of the dag. Without one it is `deadline_1`, `deadline_2`, …
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Who is told; one after the other, if there are several. The event is `deadline`, the reason says which.
    #[must_use]
    pub fn call(mut self, callback: impl IntoCallback) -> Self {
        self.callbacks.push(callback.into_callback());
        self
    }
}
