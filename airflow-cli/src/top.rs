//! `workers top`: workers, queues and what runs, drawn again and again.

use std::collections::BTreeMap;
use std::time::Duration;

use airflow_executors::remote::{
    QueueStatus, RunningAttempt, WorkerMonitor, WorkerState, WorkerStatus, workers,
};
use chrono::{DateTime, Utc};
use clap::Args;

use crate::cx::Cx;
use crate::error::CliError;
use crate::orders::monitor;
use crate::output::{Table, row, short};
use crate::queues::{self, age};
use crate::roles::StopRequests;
use crate::screen::Screen;

/// How many running tasks are shown; the others are counted.
const MOST_RUNNING: usize = 30;

#[derive(Debug, Clone, Args)]
pub(crate) struct TopArgs {
    /// Write one picture and end
    #[arg(long)]
    once: bool,
    /// The time between two pictures
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = airflow_core::time::parse_duration)]
    interval: Duration,
}

/// What was seen at a moment.
#[derive(Debug, Clone)]
struct Reading {
    at: DateTime<Utc>,
    workers: Vec<WorkerStatus>,
    /// Or why the queues cannot be seen.
    queues: Result<Vec<QueueStatus>, String>,
}

impl Reading {
    async fn take(cx: &mut Cx<'_>, monitor: &WorkerMonitor) -> Result<Self, CliError> {
        let workers = workers(&cx.store().await?).await?;
        // Workers can be seen while the broker is away.
        let queues = monitor.queues().await.map_err(|error| error.to_string());
        Ok(Self { at: Utc::now(), workers, queues })
    }

    /// How many attempts each worker has ended since its start.
    fn ended(&self) -> BTreeMap<&str, u64> {
        let ended = |one: &WorkerStatus| {
            one.info
                .as_ref()
                .map_or(0, |info| info.counts.succeeded + info.counts.failed + info.counts.cancelled)
        };
        self.workers.iter().map(|one| (one.row.name.as_str(), ended(one))).collect()
    }
}

pub(crate) async fn run(cx: &mut Cx<'_>, args: TopArgs) -> Result<(), CliError> {
    let monitor = monitor(cx).await?;
    let mut last = Reading::take(cx, &monitor).await?;
    if args.once {
        return Ok(cx.host.raw(&frame(&last, None))?);
    }
    let mut requests = StopRequests::of(cx.host)?;
    let mut screen = Screen::enter(cx.host)?;
    let mut text = frame(&last, None);
    loop {
        screen.draw(cx.host, &text)?;
        tokio::select! {
            () = requests.next() => break,
            () = screen.quit() => break,
            () = tokio::time::sleep(args.interval) => {}
        }
        let now = Reading::take(cx, &monitor).await?;
        text = frame(&now, Some(&last));
        last = now;
    }
    Ok(screen.leave(cx.host)?)
}

/// The picture, as lines.
fn frame(now: &Reading, before: Option<&Reading>) -> String {
    let rates = rates(now, before);
    let mut text = head(now, rates.values().sum());
    text.push_str(&worker_table(now, &rates).plain());
    text.push('\n');
    match &now.queues {
        Ok(queues) => text.push_str(&queues::table(queues, now.at).plain()),
        Err(error) => text.push_str(&format!("queues: {error}\n")),
    }
    text.push('\n');
    text.push_str(&running(now));
    text
}

/// How many attempts end in a second, by worker.
fn rates<'a>(now: &'a Reading, before: Option<&Reading>) -> BTreeMap<&'a str, f64> {
    let Some(before) = before else { return BTreeMap::new() };
    let seconds = (now.at - before.at).as_seconds_f64();
    let earlier = before.ended();
    let rate = |(name, ended): (&'a str, u64)| {
        // A worker that has begun anew counts from 0 again.
        let more = ended.saturating_sub(earlier.get(name).copied().unwrap_or(ended));
        #[expect(clippy::cast_precision_loss, reason = "a count for people")]
        let rate = if seconds > 0.0 { more as f64 / seconds } else { 0.0 };
        (name, rate)
    };
    now.ended().into_iter().map(rate).collect()
}

fn head(now: &Reading, rate: f64) -> String {
    let count = |state| now.workers.iter().filter(|one| one.state == state).count();
    let states = [WorkerState::Online, WorkerState::Draining, WorkerState::Lost, WorkerState::Offline];
    let states = states.map(|state| (count(state), state.as_str()));
    let states = states.iter().filter(|(count, _)| *count > 0);
    let states: Vec<String> = states.map(|(count, state)| format!("{count} {state}")).collect();
    let states = if states.is_empty() { "no workers".to_owned() } else { states.join(", ") };
    let alive = now.workers.iter().filter(|one| one.is_alive()).filter_map(|one| one.info.as_ref());
    let (busy, slots) =
        alive.fold((0, 0), |(busy, slots), info| (busy + info.running.len(), slots + info.slots));
    format!("{}  {states}  slots {busy}/{slots}  {rate:.1} tasks/s  (q ends)\n\n", short(now.at))
}

fn worker_table(now: &Reading, rates: &BTreeMap<&str, f64>) -> Table {
    let mut table = Table::new(["worker", "state", "busy", "per_s", "done", "failed", "queues", "last_seen"]);
    for one in &now.workers {
        let name = one.row.name.as_str();
        let seen = age(now.at - one.row.at);
        let Some(info) = &one.info else {
            table.push(row![name, one.state.as_str(), "", "", "", "", "of another version", seen]);
            continue;
        };
        let busy = if one.is_alive() { info.running.len() } else { 0 };
        let scale = info.autoscale.map(|between| format!(" ({between})")).unwrap_or_default();
        table.push(row![
            name,
            one.state.as_str(),
            format!("{busy}/{}{scale}", info.slots),
            format!("{:.1}", rates.get(name).copied().unwrap_or(0.0)),
            info.counts.succeeded,
            info.counts.failed,
            info.queues.join(","),
            seen
        ]);
    }
    table
}

/// What a worker runs, with its name.
fn of_worker(one: &WorkerStatus) -> impl Iterator<Item = (&str, &RunningAttempt)> {
    one.info.iter().flat_map(|info| &info.running).map(|ti| (one.row.name.as_str(), ti))
}

/// What runs, the oldest first.
fn running(now: &Reading) -> String {
    let alive = now.workers.iter().filter(|one| one.is_alive());
    let mut all: Vec<(&str, &RunningAttempt)> = alive.flat_map(of_worker).collect();
    all.sort_by_key(|(worker, ti)| (ti.since, *worker));
    let mut table = Table::new(["for", "worker", "dag_id", "run_id", "task_id", "map_index", "try"]);
    for (worker, ti) in all.iter().take(MOST_RUNNING) {
        let index = (ti.map_index >= 0).then_some(ti.map_index);
        let (dag, run, task) = (ti.dag_id.clone(), ti.run_id.clone(), ti.task_id.clone());
        table.push(row![age(now.at - ti.since), *worker, dag, run, task, index, ti.try_number]);
    }
    let more = all.len().saturating_sub(MOST_RUNNING);
    let more = if more > 0 { format!("and {more} more\n") } else { String::new() };
    table.plain() + &more
}

#[cfg(test)]
mod tests {
    use airflow_core::id::IncarnationId;
    use airflow_core::store::WorkerRow;
    use airflow_executors::remote::Depth;
    use serde_json::json;

    use super::*;

    fn worker(name: &str, state: WorkerState, ended: u64, running: usize) -> WorkerStatus {
        let ti = |n: usize| {
            json!({"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": n, "try_number": 1,
                   "since": format!("2026-01-01T00:00:{:02}Z", n % 60)})
        };
        let info = json!({
            "host": "h", "pid": 1, "broker": "redis", "queues": ["default", "gpu"], "slots": 40,
            "autoscale": {"max": 50, "min": 2}, "is_draining": false, "running": (0..running).map(ti).collect::<Vec<_>>(),
            "counts": {"claimed": 0, "succeeded": ended, "failed": 3, "cancelled": 0, "handed_back": 0, "refused": 0,
                       "stale": 0, "put_back": 0, "bad": 0},
            "started_at": "2026-01-01T00:00:00Z", "dags": 1, "broker_error": null
        });
        let at = "2026-01-01T00:01:00Z".parse().unwrap();
        let row = WorkerRow {
            name: name.to_owned(),
            process: IncarnationId(uuid::Uuid::nil()),
            info: info.clone(),
            at,
            has_ended: state == WorkerState::Offline,
        };
        WorkerStatus { row, state, info: Some(serde_json::from_value(info).unwrap()) }
    }

    fn reading(seconds: u32, ended: u64, running: usize) -> Reading {
        let queue = QueueStatus {
            name: "lonely".into(),
            waiting: 7,
            oldest: Some("2026-01-01T00:00:00Z".parse().unwrap()),
            depth: Depth { ready: 5, ..Depth::default() },
            workers: Vec::new(),
        };
        Reading {
            at: format!("2026-01-01T00:01:{seconds:02}Z").parse().unwrap(),
            workers: vec![
                worker("one", WorkerState::Online, ended, running),
                worker("two", WorkerState::Lost, 9, 1),
            ],
            queues: Ok(vec![queue]),
        }
    }

    #[test]
    fn the_picture_shows_workers_queues_and_what_runs() {
        let text = frame(&reading(5, 30, 2), Some(&reading(1, 10, 1)));
        let expected = "\
2026-01-01 00:01:05  1 online, 1 lost  slots 2/40  5.0 tasks/s  (q ends)

worker  state   busy         per_s  done  failed  queues       last_seen
one     online  2/40 (50,2)  5.0    30    3       default,gpu  5s
two     lost    0/40 (50,2)  0.0    9     3       default,gpu  5s

queue   waiting  oldest  ready  unsettled  consumers  workers
lonely  7        1m      5      0          0          nobody consumes it

for  worker  dag_id  run_id  task_id  map_index  try
1m   one     d       r       t        0          1
1m   one     d       r       t        1          1
";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let text = frame(&reading(5, 30, MOST_RUNNING + 4), None);
        assert!(text.ends_with("and 4 more\n"), "{text}");
        assert!(text.contains("0.0 tasks/s"), "nothing to compare with yet: {text}");
    }
}
