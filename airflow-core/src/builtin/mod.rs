//! Sensors, operators and watchers that every dag may use: time, files, other dags.
//!
//! They are written against the same traits as those of users; what they ask of the outside world goes through
//! [`TaskContext`](crate::operator::TaskContext).

mod external;
mod file;
mod file_watcher;
mod times;
mod trigger_run;

pub use external::ExternalTaskSensor;
pub use file::FileSensor;
pub use file_watcher::{FileEvent, FileState, FileWatcher};
pub use times::{DateTimeSensor, DayOfWeekSensor, TimeDeltaSensor, TimeSensor, WaitSensor};
pub use trigger_run::{RunEnds, TriggerDagRun};

/// The parts of [`Operator`](crate::operator::Operator) that are the same for every sensor here.
macro_rules! sensor_parts {
    ($name:literal) => {
        const NAME: &'static str = $name;
        const IS_SENSOR: bool = true;

        async fn execute(&self, cx: &crate::operator::TaskContext) -> crate::operator::Result<Self::Output> {
            crate::operator::watch(self, cx).await
        }
    };
}
use sensor_parts;
