//! Reads the log of a task instance, wherever it ran: from the store, from a file of this machine, and from workers that
//! serve their files. What one of them lacks comes from the others ([`log_merge`](super::log_merge)).

use std::collections::BTreeSet;
use std::fmt;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::id::{IncarnationId, MapIndex, TaskId};
use crate::store::{
    AttemptRow, LogFilter, LogPlace, RunFilter, RunRow, SharedStore, StoreError, StoreResult,
};

use super::log::{LogName, LogTemplate};
use super::log_merge::{Merge, STORE};
use super::log_source::{LogFile, WorkerLogs};

/// How many pieces are read at once.
const PIECES: u32 = 32;

/// How many bytes of a file are read at once.
const FILE_BYTES: u64 = 4 * 1024 * 1024;

/// For how many looks a worker is left alone that could not be asked, at most: who follows a log looks twice a second.
const MOST_SKIPPED: u32 = 16;

/// What there is of a log since the last look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPart {
    /// The lines; empty if there are no new ones.
    pub text: String,
    /// The try that they are of, 0 if there is none yet.
    pub try_number: u32,
    /// Whether nothing more will come.
    pub is_over: bool,
    /// Which workers could not be asked for their part, and why, for people; each once in a row.
    pub problems: Vec<String>,
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
    files: Option<PathBuf>,
    workers: Option<Arc<dyn WorkerLogs>>,
    template: LogTemplate,
    /// The try that is read.
    reads: Option<Reading>,
}

/// How far a try was read.
struct Reading {
    try_number: u32,
    /// Where its files lie below the folder of the logs.
    path: PathBuf,
    merge: Merge,
    after: Option<LogPlace>,
    /// What is looked at beside the store; the first is the file of this machine, if that is wanted.
    files: Vec<OpenFile>,
    /// The processes that had a part in the try and whose workers are known.
    processes: BTreeSet<IncarnationId>,
}

/// A file and how much of it was read.
struct OpenFile {
    /// Its number in the merge.
    place: usize,
    at: FilePlace,
    offset: u64,
    /// For how many looks it is left alone, and how many that were the last time.
    skips: u32,
    last_skips: u32,
}

enum FilePlace {
    Here(PathBuf),
    There(Arc<dyn LogFile>),
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
        let (fixed_try, files, workers, reads, template) = (None, None, None, None, LogTemplate::default());
        Self { store, run, task_id, map_index, fixed_try, files, workers, template, reads }
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
        (self.files, self.template) = (Some(folder), template);
        self
    }

    /// Asks workers that serve their files for what is not in the store. Their files have names by the template of
    /// [`or_files`](Self::or_files), or by the default one.
    #[must_use]
    pub fn or_workers(mut self, workers: Arc<dyn WorkerLogs>) -> Self {
        self.workers = Some(workers);
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
        let (attempts, finished) = self.state().await?;
        let newest = attempts.last().map_or(0, |last| last.start.try_number);
        let try_number = self.fixed_try.unwrap_or(newest);
        let mut reading = match self.reads.take() {
            Some(reading) if reading.try_number == try_number => reading,
            _ => self.begin(try_number)?,
        };
        let of_try = attempts.iter().filter(|attempt| attempt.start.try_number == try_number);
        self.meet_workers(&mut reading, of_try).await?;
        let read = self.read(&mut reading).await;
        let is_dry = reading.merge.is_dry();
        self.reads = Some(reading);
        let (text, problems) = read?;
        let is_over = is_dry && (finished || newest > try_number);
        Ok(LogPart { text, try_number, is_over, problems })
    }

    /// The attempts of the instance, and whether nothing more happens to it.
    async fn state(&self) -> StoreResult<(Vec<AttemptRow>, bool)> {
        let attempts = self.store.attempts(self.run.pk, Some((&self.task_id, self.map_index))).await?;
        let Some(last) = attempts.last() else { return Ok((attempts, self.is_over_untried().await?)) };
        let found = self.store.find_attempts(&[last.start.attempt_id]).await?;
        let finished = |found: &crate::store::FoundAttempt| {
            found.ti.state.is_finished() || found.run.state.is_finished()
        };
        // Deleted in between.
        let finished = found.first().is_none_or(finished);
        Ok((attempts, finished))
    }

    /// It may have been skipped, or its run ended.
    async fn is_over_untried(&self) -> StoreResult<bool> {
        let of_run = RunFilter {
            dag_id: Some(self.run.dag_id.clone()),
            run_id: Some(self.run.run_id.clone()),
            ..RunFilter::default()
        };
        if self.store.runs(&of_run).await?.first().is_none_or(|run| run.state.is_finished()) {
            return Ok(true);
        }
        let tis = self.store.task_instances(self.run.pk).await?;
        let own = tis.iter().find(|ti| ti.task_id == self.task_id && ti.map_index == self.map_index);
        Ok(own.is_some_and(|ti| ti.state.is_finished()))
    }

    fn begin(&self, try_number: u32) -> StoreResult<Reading> {
        let name = LogName {
            dag: &self.run.dag_id,
            run: &self.run.run_id,
            logical_date: self.run.logical_date,
            data_interval: Some((self.run.data_interval.start, self.run.data_interval.end)),
            task: &self.task_id,
            map_index: self.map_index,
            try_number,
        };
        let path = self.template.path(&name).map_err(|error| {
            StoreError::Refused(format!("`logging.log_filename_template` cannot be rendered: {error}"))
        })?;
        let mut merge = Merge::default();
        merge.add_place();
        let (after, processes) = Default::default();
        let mut reading = Reading { try_number, path, merge, after, files: Vec::new(), processes };
        if let Some(folder) = &self.files {
            reading.open(FilePlace::Here(folder.join(&reading.path)));
        }
        Ok(reading)
    }

    /// Looks for workers with a part of the log, whenever a process has had a part in it of which that is not known.
    async fn meet_workers(
        &self,
        reading: &mut Reading,
        attempts: impl Iterator<Item = &AttemptRow>,
    ) -> StoreResult<()> {
        let Some(workers) = &self.workers else { return Ok(()) };
        let processes: BTreeSet<IncarnationId> =
            attempts.filter_map(|attempt| attempt.start.incarnation).collect();
        let new: Vec<IncarnationId> = processes.difference(&reading.processes).copied().collect();
        if new.is_empty() {
            return Ok(());
        }
        for worker in workers.of(&new).await? {
            let is_known =
                |file: &OpenFile| matches!(&file.at, FilePlace::There(one) if one.name() == worker.name());
            if !reading.files.iter().any(is_known) {
                reading.open(FilePlace::There(worker));
            }
        }
        reading.processes.extend(new);
        Ok(())
    }

    /// What follows, and which workers could not be asked.
    async fn read(&self, reading: &mut Reading) -> StoreResult<(String, Vec<String>)> {
        let mut problems = Vec::new();
        reading.merge.look();
        loop {
            if reading.merge.is_wanted(STORE) {
                self.read_store(reading).await?;
            }
            reading.read_files(&mut problems).await?;
            let text = reading.merge.take();
            if !text.is_empty() || reading.merge.is_dry() {
                return Ok((text, problems));
            }
        }
    }

    async fn read_store(&self, reading: &mut Reading) -> StoreResult<()> {
        let filter = LogFilter {
            run: self.run.pk,
            task_id: self.task_id.clone(),
            map_index: self.map_index,
            try_number: reading.try_number,
            after: reading.after,
            limit: PIECES,
        };
        let pieces = self.store.log_chunks(&filter).await?;
        reading.after = pieces.last().map(|(place, _)| *place).or(reading.after);
        let is_all = pieces.len() < PIECES as usize;
        let text: String = pieces.into_iter().map(|(_, piece)| piece.text).collect();
        reading.merge.add(STORE, &text, is_all);
        Ok(())
    }
}

impl Reading {
    fn open(&mut self, at: FilePlace) {
        let place = self.merge.add_place();
        self.files.push(OpenFile { place, at, offset: 0, skips: 0, last_skips: 0 });
    }

    /// Reads on in all files of which nothing is left.
    async fn read_files(&mut self, problems: &mut Vec<String>) -> StoreResult<()> {
        for file in &mut self.files {
            if !self.merge.is_wanted(file.place) {
                continue;
            }
            let bytes = match &file.at {
                FilePlace::Here(path) => read_file(path, file.offset)?,
                FilePlace::There(_) if file.skips > 0 => {
                    file.skips -= 1;
                    Vec::new()
                }
                FilePlace::There(worker) => match worker.read(&self.path, file.offset).await {
                    Ok(bytes) => {
                        file.last_skips = 0;
                        bytes
                    }
                    Err(why) => {
                        if file.last_skips == 0 {
                            problems.push(format!("the worker `{}` cannot be asked: {why}", worker.name()));
                        }
                        file.last_skips = (file.last_skips * 2).clamp(1, MOST_SKIPPED);
                        file.skips = file.last_skips;
                        Vec::new()
                    }
                },
            };
            // Whole lines: the last one may still be written.
            let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            file.offset += end as u64;
            self.merge.add(file.place, &String::from_utf8_lossy(&bytes[..end]), end == 0);
        }
        Ok(())
    }
}

fn read_file(path: &Path, from: u64) -> StoreResult<Vec<u8>> {
    // Not there yet, or on another machine.
    let Ok(mut file) = std::fs::File::open(path) else { return Ok(Vec::new()) };
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(from))
        .and_then(|_| file.take(FILE_BYTES).read_to_end(&mut bytes))
        .map_err(|error| StoreError::Refused(format!("cannot read {}: {error}", path.display())))?;
    Ok(bytes)
}
