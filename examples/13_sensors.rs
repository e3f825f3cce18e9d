//! Waiting: for a file, for a time, for another dag, for an answer from outside.
//!
//! `cargo run --example 13_sensors`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use airflow::prelude::*;

/// A function that looks once. It is called again and again; between two calls the task holds no slot.
#[sensor(poke_interval = "5m", timeout = "2h", mode = "reschedule")]
async fn exported(cx: &TaskContext) -> Result<Poke<u32>> {
    // A real one would look at a bucket. This one finds 1200 rows once it is 06:25.
    let ready = cx.interval().end + chrono::TimeDelta::minutes(25);
    Ok(if cx.now() >= ready { Poke::Ready(1200) } else { Poke::NotYet })
}

/// What a job of an outside service waits for. It is stored, so that the wait goes on after a restart.
#[derive(Serialize, Deserialize)]
struct JobDone {
    job: u32,
}

impl Trigger for JobDone {
    type Event = String;
    const KIND: &'static str = "shop::JobDone";

    async fn wait(&self, cx: &TaskContext) -> Result<String> {
        // A real one would ask the service every few seconds, or listen to it.
        cx.sleep(mins(40)).await;
        Ok(format!("job {} is done", self.job))
    }
}

/// Starts a job, gives its slot back, and goes on when the job is done.
#[derive(Operator)]
#[operator(triggers(JobDone), retries = 2)]
struct RunJob {
    #[input]
    rows: In<u32>,
}

impl Execute for RunJob {
    type Output = String;

    async fn execute(&self, cx: &TaskContext) -> Result<String> {
        let rows = self.rows.get(cx)?;
        let job = 7; // the number that the service gave
        Err(Deferral::until(JobDone { job }).kwargs(&rows).resume_at("job_done").timeout(hours(3)).into())
    }

    async fn resume(&self, _: &TaskContext, resumed: &Resumed) -> Result<String> {
        match resumed.method() {
            "job_done" => {
                Ok(format!("{} with {} rows", resumed.event::<String>()?, resumed.kwargs::<u32>()?))
            }
            other => Err(resumed.unknown(other)),
        }
    }
}

#[dag(schedule = "0 6 * * *", start_date = "2026-03-01")]
fn sales(d: &Dag) {
    let rows = d.add(exported::call());
    let job = d.add(RunJob { rows: rows.into_in() });
    job >> d.add(TriggerDagRun::new("archive").conf(&serde_json::json!({ "day": "{{ ds }}" })));
}

#[dag]
fn archive(d: &Dag) {
    d.add(Empty::new().id("pack"));
}

/// Waits for the run of `sales` of the same date, and for seven o'clock.
#[dag(schedule = "0 6 * * *", start_date = "2026-03-01")]
fn report(d: &Dag) {
    let sales = d.add(ExternalTaskSensor::dag("sales").poke_every(mins(10)).deferred());
    let seven = d.add(DateTimeSensor::until("{{ data_interval_end | ds }}T07:00").deferred());
    [sales, seven] >> d.add(Empty::new().id("write"));
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // One slot for all of it, and a clock that moves by itself: half a day passes at once.
    let dags = [sales(), archive(), report()];
    let sim = Sim::new(dags).slots(1).start("2026-03-02T05:59Z").await;
    sim.advance(hours(12)).await;

    for dag in ["sales", "archive", "report"] {
        for run in sim.runs(dag).iter() {
            let row = run.row();
            let time =
                |at: Option<DateTime<Utc>>| at.map(|at| at.format("%H:%M").to_string()).unwrap_or_default();
            println!("{dag:<7} {} from {} to {}", run.state(), time(row.started_at), time(row.ended_at));
            assert_eq!(run.state(), RunState::Success);
        }
    }
    let answer = sim.runs("sales")[0].output::<RunJob>();
    println!("{}", answer.as_deref().unwrap_or("nothing"));
    assert_eq!(answer.as_deref(), Some("job 7 is done with 1200 rows"));
    Ok(())
}
