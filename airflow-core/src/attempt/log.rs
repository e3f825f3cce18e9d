//! The log of an attempt: one file, with what the task and everything it awaits says through `tracing`. A copy goes to
//! the store (`ship`).
//!
//! [`TaskLogLayer`] sends events that happen inside the span of an attempt into its file. Add it to the subscriber of
//! the application. An application that has set none by the time its first attempt writes a log gets one that does
//! nothing else: so set your own before you start the scheduler.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Span, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

use crate::id::{DagId, MapIndex, RunId, TaskId};
use crate::mask::Masker;
use crate::plan::{Attempt, Outcome};
use crate::store::LogChunk;
use crate::time::Clock;

use super::log_path::safe;
pub use super::log_path::{LogName, LogTemplate};
use crate::shipping::Outlet;

/// The name of the span around every attempt.
const SPAN: &str = "airflow_attempt";

/// Where the log of a try lies below the log folder.
pub fn relative_path(dag: &DagId, run: &RunId, task: &TaskId, map: MapIndex, try_number: u32) -> PathBuf {
    let mut path = PathBuf::from(format!("dag_id={}", safe(dag.as_str())));
    path.push(format!("run_id={}", safe(run.as_str())));
    path.push(format!("task_id={}", safe(task.as_str())));
    if map != MapIndex::UNMAPPED {
        path.push(format!("map_index={map}"));
    }
    path.push(format!("attempt={try_number}.log"));
    path
}

/// The log file of one attempt. Cheap to clone; without a path it swallows everything.
#[derive(Clone)]
pub struct AttemptLog(Arc<Shared>);

struct Shared {
    path: Option<PathBuf>,
    outlet: Option<Outlet>,
    clock: Arc<dyn Clock>,
    masker: Masker,
    quota: u64,
    written: Mutex<Written>,
}

/// What was written so far, and what was not.
#[derive(Default)]
struct Written {
    file: Option<File>,
    bytes: u64,
    cut_lines: u64,
    cut_bytes: u64,
}

/// Where a log goes, and how much of it.
pub(super) struct LogPlan {
    /// The file.
    pub(super) path: Option<PathBuf>,
    /// The way to the store.
    pub(super) outlet: Option<Outlet>,
    /// How many bytes of what the task says are kept.
    pub(super) quota: u64,
}

/// The longest line of a task that is kept whole, in bytes.
const LINE: usize = 32 * 1024;

/// Attempts that are running, by the number in their span, for the layer to find their files.
static OPEN: Mutex<Vec<(u64, std::sync::Weak<Shared>)>> = Mutex::new(Vec::new());
static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);

impl AttemptLog {
    /// Opens the file for appending: a try that goes on after a wait continues its log. Secrets that `masker` knows by
    /// the time of a line are hidden in it, in the file and in the store.
    pub(super) fn open(plan: LogPlan, clock: Arc<dyn Clock>, masker: Masker) -> Self {
        let LogPlan { path, outlet, quota } = plan;
        let file = path.as_ref().and_then(|path| {
            let open = || {
                path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
                OpenOptions::new().create(true).append(true).open(path)
            };
            open()
                .map_err(
                    |error| tracing::warn!(path = %path.display(), %error, "cannot write the task's log"),
                )
                .ok()
        });
        if (file.is_some() || outlet.is_some()) && !tracing::dispatcher::has_been_set() {
            // Whoever was faster has set a subscriber of the application.
            let _ =
                tracing::subscriber::set_global_default(tracing_subscriber::registry().with(TaskLogLayer));
        }
        let written = Mutex::new(Written { file, ..Written::default() });
        Self(Arc::new(Shared { path, outlet, clock, masker, quota, written }))
    }

    /// Ends the log, if it goes to the store: gives its last piece, which goes there with the end of the attempt, once
    /// the store has the pieces before, or does not take them. Of an attempt that was stopped nobody waits for that.
    pub(super) async fn close(&self, outcome: &Outcome) -> Option<LogChunk> {
        let outlet = self.0.outlet.as_ref()?;
        let last = outlet.close();
        if !matches!(outcome, Outcome::Cancelled) {
            outlet.sent().await;
        }
        last
    }

    /// The file.
    pub fn path(&self) -> Option<&PathBuf> {
        self.0.path.as_ref()
    }

    /// The span in which the attempt runs.
    pub(super) fn span(&self, attempt: &Attempt) -> Span {
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if self.0.is_open() {
            let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
            open.retain(|(_, shared)| shared.strong_count() > 0);
            open.push((number, Arc::downgrade(&self.0)));
        }
        tracing::info_span!(
            "airflow_attempt",
            log = number,
            dag_id = %attempt.run.dag_id,
            run_id = %attempt.run.run_id,
            task_id = %attempt.ti.task_id,
            map_index = attempt.ti.map_index.0,
            try_number = attempt.ti.try_number,
        )
    }

    pub(super) fn header(&self, attempt: &Attempt) {
        let ti = &attempt.ti;
        self.line("INFO", &format!("Starting attempt {} of {}", ti.try_number, ti.max_tries));
        self.line(
            "INFO",
            &format!("Executing {} of run {} ({})", ti.task_id, attempt.run.run_id, attempt.run.dag_id),
        );
    }

    pub(super) fn waits(&self, what: &str) {
        self.line("INFO", &format!("Waiting without a slot: {what}"));
    }

    pub(super) fn footer(&self, attempt: &Attempt, outcome: &Outcome) {
        let (level, what) = match outcome {
            Outcome::Success(_) => ("INFO", "SUCCESS".to_owned()),
            Outcome::Skipped(why) => ("INFO", format!("SKIPPED: {why}")),
            Outcome::Deferred(to) => ("INFO", format!("DEFERRED until `{}` fires", to.kind)),
            Outcome::Fired(_) => ("INFO", "SCHEDULED: what it waited for has happened".to_owned()),
            Outcome::Rescheduled(at) => ("INFO", format!("UP_FOR_RESCHEDULE at {at}")),
            Outcome::Failed { error, retryable: true, .. }
                if attempt.ti.try_number < attempt.ti.max_tries =>
            {
                ("ERROR", format!("UP_FOR_RETRY: {error}"))
            }
            Outcome::Failed { error, .. } => ("ERROR", format!("FAILED: {error}")),
            Outcome::Cancelled => {
                ("WARN", "stopped: it was cleared, marked, or its run was ended".to_owned())
            }
            Outcome::Lost | Outcome::HandedBack => ("WARN", "given back".to_owned()),
        };
        self.0.tell_what_was_cut();
        let took = (self.0.clock.now() - attempt.at).num_milliseconds();
        self.line(
            level,
            &format!(
                "Marking task as {what}. dag_id={}, task_id={}, run_id={}, map_index={}, duration={took}ms",
                attempt.run.dag_id, attempt.ti.task_id, attempt.run.run_id, attempt.ti.map_index
            ),
        );
    }

    fn line(&self, level: &str, text: &str) {
        self.0.write(level, "airflow", text);
    }
}

impl Shared {
    fn is_open(&self) -> bool {
        self.outlet.is_some() || self.lock().file.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn formatted(&self, level: &str, place: &str, text: &str) -> String {
        let now: DateTime<Utc> = self.clock.now();
        let text = self.masker.mask(text);
        let at = now.format("%Y-%m-%dT%H:%M:%S%.3f%z");
        if text.len() <= LINE {
            return format!("[{at}] {{{place}}} {level} - {text}\n");
        }
        let (head, missing) = (&text[..text.floor_char_boundary(LINE)], text.len() - LINE);
        format!("[{at}] {{{place}}} {level} - {head}... and {missing} bytes more that are left out\n")
    }

    /// Writes what the engine says: always.
    fn write(&self, level: &str, place: &str, text: &str) {
        let line = self.formatted(level, place, text);
        self.put(&mut self.lock(), &line);
    }

    /// Writes what the task says, up to the quota.
    fn write_of_task(&self, level: &str, place: &str, text: &str) {
        let line = self.formatted(level, place, text);
        let mut written = self.lock();
        if written.cut_lines == 0 && written.bytes + line.len() as u64 <= self.quota {
            written.bytes += line.len() as u64;
            self.put(&mut written, &line);
            return;
        }
        (written.cut_lines, written.cut_bytes) =
            (written.cut_lines + 1, written.cut_bytes + line.len() as u64);
        if written.cut_lines == 1 {
            let quota = self.quota;
            let text = format!("the log has reached its quota of {quota} bytes; what follows is left out");
            let line = self.formatted("WARN", "airflow", &text);
            self.put(&mut written, &line);
        }
    }

    fn tell_what_was_cut(&self) {
        let (lines, bytes) = {
            let written = self.lock();
            (written.cut_lines, written.cut_bytes)
        };
        if lines > 0 {
            let text = format!("{lines} lines with {bytes} bytes were left out: the quota was used up");
            self.write("WARN", "airflow", &text);
        }
    }

    fn put(&self, written: &mut Written, line: &str) {
        if let Some(file) = &mut written.file {
            // A log that cannot be written must not stop the task.
            let _ = file.write_all(line.as_bytes());
        }
        if let Some(outlet) = &self.outlet {
            outlet.add(line);
        }
    }
}

/// Sends events inside attempts to the log files of the attempts. Add it to the subscriber of the application:
///
/// ```
/// use tracing_subscriber::layer::SubscriberExt as _;
/// let subscriber = tracing_subscriber::registry().with(airflow_core::attempt::log::TaskLogLayer);
/// # drop(subscriber);
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct TaskLogLayer;

struct LogOfSpan(Arc<Shared>);

#[derive(Default)]
struct Number(Option<u64>);

impl Visit for Number {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "log" {
            self.0 = Some(value);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let target = if field.name() == "message" { &mut self.message } else { &mut self.fields };
        let _ = if field.name() == "message" {
            write!(target, "{value:?}")
        } else {
            write!(target, " {}={value:?}", field.name())
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            let _ = write!(self.fields, " {}={value:?}", field.name());
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for TaskLogLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if attributes.metadata().name() != SPAN {
            return;
        }
        let mut number = Number::default();
        attributes.record(&mut number);
        let open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let log = number.0.and_then(|number| open.iter().find(|(other, _)| *other == number)?.1.upgrade());
        if let (Some(log), Some(span)) = (log, context.span(id)) {
            span.extensions_mut().insert(LogOfSpan(log));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let Some(scope) = context.event_scope(event) else { return };
        for span in scope {
            if let Some(log) = span.extensions().get::<LogOfSpan>() {
                let mut text = Text::default();
                event.record(&mut text);
                let meta = event.metadata();
                let place = match (meta.file(), meta.line()) {
                    (Some(file), Some(line)) => format!("{}:{line}", file.rsplit('/').next().unwrap_or(file)),
                    _ => meta.target().to_owned(),
                };
                log.0.write_of_task(meta.level().as_str(), &place, &(text.message + &text.fields));
                return;
            }
        }
    }
}
