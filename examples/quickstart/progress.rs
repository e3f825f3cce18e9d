//! Shows what the engine does while it does it, read from the store: on a terminal a grid of runs and tasks, redrawn in
//! place; elsewhere, and with `NO_COLOR`, a line for each run that has ended.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use airflow::id::{RunPk, TaskId};
use airflow::prelude::*;
use airflow::store::{RunFilter, RunRow, StoreResult, TiRow};

/// Ten frames a second: smooth to the eye, and a few cheap queries each.
const FRAME: Duration = Duration::from_millis(100);

/// The width of the column with the names.
const NAMES: usize = 18;

/// Shows the runs until the first one of dag `until` has ended, and returns that one; `None` if the scheduler ended
/// before.
pub(crate) async fn watch(airflow: &Airflow, running: &Running, until: &str) -> StoreResult<Option<RunRow>> {
    let mut ended = running.scheduler().ended_runs();
    let plain = !std::io::stdout().is_terminal() || std::env::var_os("NO_COLOR").is_some();
    let mut grid = Grid::default();
    let mut told = None;
    loop {
        let runs = airflow.store().runs(&RunFilter::default()).await?;
        if plain {
            tell(&runs, &mut told);
        } else {
            grid.draw(airflow, &runs).await?;
        }
        if let Some(run) =
            runs.into_iter().find(|run| run.dag_id.as_str() == until && run.state.is_finished())
        {
            return Ok(Some(run));
        }
        if running.is_finished() {
            return Ok(None);
        }
        // A run that ends is shown at once.
        let _ = tokio::time::timeout(FRAME, ended.recv()).await;
    }
}

/// Prints a line for each run that has ended since the last time; for those of an earlier start, one for all.
fn tell(runs: &[RunRow], told: &mut Option<HashSet<RunPk>>) {
    let ended = || runs.iter().filter(|run| run.state.is_finished());
    let Some(told) = told else {
        if ended().count() > 0 {
            println!("going on after {} runs that are done", ended().count());
        }
        *told = Some(ended().map(|run| run.pk).collect());
        return;
    };
    for run in ended() {
        if told.insert(run.pk) {
            let took =
                run.ended_at.zip(run.started_at).map_or(0, |(end, start)| (end - start).num_milliseconds());
            println!("{} {} {} in {took} ms", run.dag_id, run.logical_date.date_naive(), run.state);
        }
    }
}

/// Runs from left to right, tasks from top to bottom.
#[derive(Default)]
struct Grid {
    /// How many lines the last frame has: that far the cursor goes up for the next one.
    lines: usize,
    /// What cannot change any more is read once.
    done: HashMap<RunPk, Vec<TiRow>>,
}

impl Grid {
    async fn draw(&mut self, airflow: &Airflow, runs: &[RunRow]) -> StoreResult<()> {
        let mut lines = Vec::new();
        for dag in airflow.registry().iter() {
            let runs: Vec<&RunRow> = runs.iter().filter(|run| run.dag_id == dag.id).collect();
            let mut columns = Vec::with_capacity(runs.len());
            for run in &runs {
                columns.push(by_task(&self.task_instances(airflow, run).await?));
            }
            let days = runs.iter().map(|run| run.logical_date.date_naive());
            let span =
                days.clone().min().zip(days.max()).map_or(String::new(), |(a, b)| format!("{a} to {b}"));
            lines.push(format!("\x1b[1m{:NAMES$}\x1b[0m{span}", dag.id.as_str()));
            lines.extend(dag.order.iter().map(|task| row(&dag.task(*task).id, &columns)));
        }
        lines.push(legend());
        let mut frame = String::new();
        if self.lines > 0 {
            let _ = write!(frame, "\x1b[{}A", self.lines);
        }
        self.lines = lines.len();
        for line in lines {
            let _ = writeln!(frame, "\x1b[2K{line}");
        }
        // A terminal that is gone sees nothing; the work goes on.
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(frame.as_bytes()).and_then(|()| out.flush());
        Ok(())
    }

    async fn task_instances(&mut self, airflow: &Airflow, run: &RunRow) -> StoreResult<Vec<TiRow>> {
        if let Some(tis) = self.done.get(&run.pk) {
            return Ok(tis.clone());
        }
        let tis = airflow.store().task_instances(run.pk).await?;
        if run.state.is_finished() {
            self.done.insert(run.pk, tis.clone());
        }
        Ok(tis)
    }
}

/// One state for each task: of the instances of a mapped one, the state that matters most.
fn by_task(tis: &[TiRow]) -> BTreeMap<TaskId, TaskState> {
    let weight = |state: TaskState| match state {
        TaskState::Failed | TaskState::UpstreamFailed => 3,
        TaskState::Success | TaskState::Skipped | TaskState::Removed => 0,
        TaskState::Running => 2,
        _ => 1,
    };
    let mut states = BTreeMap::new();
    for ti in tis {
        let state = states.entry(ti.task_id.clone()).or_insert(ti.state);
        if weight(ti.state) > weight(*state) {
            *state = ti.state;
        }
    }
    states
}

fn row(task: &TaskId, columns: &[BTreeMap<TaskId, TaskState>]) -> String {
    let states = columns.iter().map(|states| states.get(task).copied().unwrap_or(TaskState::None));
    format!("  {:1$}{2}", task.as_str(), NAMES - 2, states.map(cell).collect::<String>())
}

/// A state as one character, in the colours of Airflow.
fn cell(state: TaskState) -> String {
    let (colour, sign) = match state {
        TaskState::None | TaskState::Removed => (240, '·'),
        TaskState::Scheduled | TaskState::Queued => (180, '○'),
        TaskState::Running | TaskState::Restarting => (118, '●'),
        TaskState::Success => (34, '■'),
        TaskState::Failed => (196, '✗'),
        TaskState::UpstreamFailed => (208, '✗'),
        TaskState::Skipped => (205, '–'),
        TaskState::UpForRetry => (220, '↻'),
        TaskState::UpForReschedule | TaskState::Deferred => (80, '◔'),
    };
    format!("\x1b[38;5;{colour}m{sign}\x1b[0m")
}

/// Short enough for 80 columns: a line that wraps would spoil the way back up.
fn legend() -> String {
    let shown = [
        TaskState::Scheduled,
        TaskState::Running,
        TaskState::UpForReschedule,
        TaskState::Success,
        TaskState::Skipped,
        TaskState::Failed,
    ];
    shown.map(|state| format!("{} {state}", cell(state))).join("  ")
}
