//! Reads the log of a task instance, wherever it ran: from the store, or from a file of this machine.

use std::fmt;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;

use crate::id::{MapIndex, TaskId};
use crate::store::{LogFilter, LogPlace, RunFilter, RunRow, SharedStore, StoreError, StoreResult};

use super::log::{LogName, LogTemplate};

/// How many pieces are read at once.
const PIECES: u32 = 32;

/// How many bytes of a file are read at once.
const FILE_BYTES: u64 = 4 * 1024 * 1024;

/// What there is of a log since the last look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPart {
    /// The lines; empty if there are no new ones.
    pub text: String,
    /// The try that they are of, 0 if there is none yet.
    pub try_number: u32,
    /// Whether nothing more will come.
    pub is_over: bool,
}

/// Reads the log of a task instance piece by piece, also while it runs. Each look costs the store a few short queries.
///
/// ```
/// use airflow_core::app::Airflow;
/// use airflow_core::dag::{DagDef, TaskExt};
/// use airflow_core::id::MapIndex;
/// use airflow_core::operator::Empty;
/// use airflow_core::store::MemoryStore;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let dag = DagDef::new("sales").define(|d| {
///     d.add(Empty::new().id("load"));
/// });
/// let airflow = Airflow::builder().store(MemoryStore::new()).dag(dag).build().await?;
/// airflow.trigger("sales").run_id("r1").await?;
/// let mut log = airflow.task_log(&"sales".into(), &"r1".into(), &"load".into(), MapIndex::UNMAPPED).await?;
/// let part = log.next().await?;
/// assert_eq!((part.text.as_str(), part.try_number, part.is_over), ("", 0, false));
/// # Ok(()) }
/// ```
pub struct LogReader {
    store: SharedStore,
    run: RunRow,
    task_id: TaskId,
    map_index: MapIndex,
    fixed_try: Option<u32>,
    files: Option<(PathBuf, LogTemplate)>,
    /// The try that is read.
    reads: Option<u32>,
    after: Option<LogPlace>,
    /// How much of a file was read.
    offset: u64,
}

impl fmt::Debug for LogReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogReader")
            .field("run", &self.run.run_id)
            .field("task", &self.task_id)
            .finish_non_exhaustive()
    }
}

impl LogReader {
    /// Reads what the store has of an instance, of its newest try.
    pub fn new(store: SharedStore, run: RunRow, task_id: TaskId, map_index: MapIndex) -> Self {
        let (fixed_try, files, reads, after) = (None, None, None, None);
        Self { store, run, task_id, map_index, fixed_try, files, reads, after, offset: 0 }
    }

    /// Of this try, instead of the newest.
    #[must_use]
    pub fn of_try(mut self, number: u32) -> Self {
        self.fixed_try = Some(number);
        self
    }

    /// Looks into files of this machine for what is not in the store.
    #[must_use]
    pub fn or_files(mut self, folder: PathBuf, template: LogTemplate) -> Self {
        self.files = Some((folder, template));
        self
    }

    /// Reads on, as much as fits well into one answer. Once a newer try has begun its log follows, unless a try was
    /// asked for.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn next(&mut self) -> StoreResult<LogPart> {
        // The state first: what was written before an instance is finished is read after.
        let (newest, finished) = self.state().await?;
        let try_number = self.fixed_try.unwrap_or(newest);
        if self.reads != Some(try_number) {
            (self.reads, self.after, self.offset) = (Some(try_number), None, 0);
        }
        let (text, more) = self.read(try_number).await?;
        let is_over = !more && (finished || newest > try_number);
        Ok(LogPart { text, try_number, is_over })
    }

    /// The newest try, and whether nothing more happens to the instance.
    async fn state(&self) -> StoreResult<(u32, bool)> {
        let attempts = self.store.attempts(self.run.pk, Some((&self.task_id, self.map_index))).await?;
        let Some(last) = attempts.last() else { return self.state_without_attempts().await };
        let found = self.store.find_attempts(&[last.start.attempt_id]).await?;
        let finished = |found: &crate::store::FoundAttempt| {
            found.ti.state.is_finished() || found.run.state.is_finished()
        };
        // Deleted in between.
        Ok((last.start.try_number, found.first().is_none_or(finished)))
    }

    /// It may have been skipped, or its run ended.
    async fn state_without_attempts(&self) -> StoreResult<(u32, bool)> {
        let of_run = RunFilter {
            dag_id: Some(self.run.dag_id.clone()),
            run_id: Some(self.run.run_id.clone()),
            ..RunFilter::default()
        };
        if self.store.runs(&of_run).await?.first().is_none_or(|run| run.state.is_finished()) {
            return Ok((0, true));
        }
        let tis = self.store.task_instances(self.run.pk).await?;
        let own = tis.iter().find(|ti| ti.task_id == self.task_id && ti.map_index == self.map_index);
        Ok((0, own.is_some_and(|ti| ti.state.is_finished())))
    }

    /// What follows, and whether there may be more at once.
    async fn read(&mut self, try_number: u32) -> StoreResult<(String, bool)> {
        if self.offset == 0 {
            let filter = LogFilter {
                run: self.run.pk,
                task_id: self.task_id.clone(),
                map_index: self.map_index,
                try_number,
                after: self.after,
                limit: PIECES,
            };
            let pieces = self.store.log_chunks(&filter).await?;
            let more = pieces.len() == PIECES as usize;
            self.after = pieces.last().map(|(place, _)| *place).or(self.after);
            if self.after.is_some() {
                return Ok((pieces.into_iter().map(|(_, piece)| piece.text).collect(), more));
            }
        }
        let bytes = self.read_file(try_number)?;
        let more = bytes.len() as u64 == FILE_BYTES;
        // Whole lines: the last one may still be written.
        let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.offset += end as u64;
        Ok((String::from_utf8_lossy(&bytes[..end]).into_owned(), more && end > 0))
    }

    fn read_file(&self, try_number: u32) -> StoreResult<Vec<u8>> {
        let Some((folder, template)) = &self.files else { return Ok(Vec::new()) };
        let name = LogName {
            dag: &self.run.dag_id,
            run: &self.run.run_id,
            logical_date: self.run.logical_date,
            data_interval: Some((self.run.data_interval.start, self.run.data_interval.end)),
            task: &self.task_id,
            map_index: self.map_index,
            try_number,
        };
        let path = template.path(&name).map_err(|error| {
            StoreError::Refused(format!("`logging.log_filename_template` cannot be rendered: {error}"))
        })?;
        let path = folder.join(path);
        // Not there yet, or on another machine.
        let Ok(mut file) = std::fs::File::open(&path) else { return Ok(Vec::new()) };
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(self.offset))
            .and_then(|_| file.take(FILE_BYTES).read_to_end(&mut bytes))
            .map_err(|error| StoreError::Refused(format!("cannot read {}: {error}", path.display())))?;
        Ok(bytes)
    }
}
