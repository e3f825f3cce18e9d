//! Sensors in their three modes, and tasks that wait without a slot.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use airflow::app::Mark;
use airflow::prelude::*;
use airflow::store::SlotKey;

/// Ready so many minutes after the run started.
#[sensor(poke_interval = "10m")]
async fn ready_after(cx: &TaskContext, minutes: i64) -> Result<Poke<i64>> {
    let waited = (cx.now() - cx.run().started_at.unwrap()).num_minutes();
    Ok(if waited >= minutes { Poke::Ready(waited) } else { Poke::NotYet })
}

/// Fails until so many minutes after the run started.
#[sensor(poke_interval = "10m", retries = 2, retry_delay = "1m")]
async fn shaky(cx: &TaskContext, minutes: i64) -> Result<bool> {
    let waited = (cx.now() - cx.run().started_at.unwrap()).num_minutes();
    if waited < minutes { Err(TaskError::msg("the server is busy")) } else { Ok(false) }
}

#[sensor]
async fn hopeless() -> Result<bool> {
    Err(TaskError::fail("no such bucket"))
}

#[task]
async fn after(waited: i64) -> Result<i64> {
    Ok(waited)
}

#[task]
async fn other() -> Result<()> {
    Ok(())
}

fn one<S: airflow::dag::IntoSpec>(task: S) -> DagDef {
    DagDef::new("d").define(|d| {
        d.add(task);
    })
}

async fn run(dag: DagDef) -> airflow::testing::TestRun {
    DagTest::new(dag).at("2026-03-02").run().await
}

fn minutes(run: &airflow::testing::TestRun) -> i64 {
    let row = run.run();
    (row.ended_at.unwrap() - row.started_at.unwrap()).num_minutes()
}

/// Goal: a sensor in any mode looks every ten minutes, is ready at the first look after 35 minutes, and hands on what it
/// found. Method: one run in each mode; the number of attempts tells where it waited.
#[tokio::test]
async fn a_sensor_waits_in_its_mode() {
    for (mode, attempts) in [(SensorMode::Poke, 1), (SensorMode::Reschedule, 5), (SensorMode::Deferred, 1)] {
        let dag = DagDef::new("d").define(|d| {
            let waited = d.add(ready_after::call(35).mode(mode));
            d.add(after::call(waited));
        });
        let run = run(dag).await;
        run.assert_success();
        assert_eq!(run.output::<after>(), Some(40), "{mode}");
        assert_eq!(minutes(&run), 40, "{mode}");
        assert_eq!(run.tries_of::<ready_after>(), 1, "{mode}");
        let begun =
            run.events().iter().filter(|e| e.to == TaskState::Running && e.task_id.as_str() == "ready_after");
        assert_eq!(begun.count(), attempts, "{mode}");
    }
}

/// Goal: only the mode `poke` holds the slot of the executor. Method: one slot, and another task beside the sensor.
#[tokio::test]
async fn a_slot_is_held_in_the_mode_poke_only() {
    for (mode, waits) in
        [(SensorMode::Poke, true), (SensorMode::Reschedule, false), (SensorMode::Deferred, false)]
    {
        let dag = DagDef::new("d").define(|d| {
            d.add(ready_after::call(35).mode(mode).priority_weight(9));
            d.add(other::call());
        });
        let sim = Sim::new([dag]).slots(1).start("2026-03-02").await;
        let run = sim.trigger("d").await.unwrap();
        sim.advance(mins(5)).await;
        let state = sim.run("d", run.run_id.as_str()).state_of::<other>();
        assert_eq!(state == TaskState::Scheduled, waits, "{mode}: {state}");
        sim.advance(mins(60)).await;
        sim.assert_idle();
    }
}

/// Goal: the timeout counts from the first look, over all reschedules, and no retry follows it.
#[tokio::test]
async fn a_timeout_fails_without_retry() {
    for mode in SensorMode::ALL {
        let sensor = ready_after::call(100_000).mode(*mode).timeout(mins(35)).retries(3);
        let run = run(one(sensor)).await;
        assert_eq!(run.state_of::<ready_after>(), TaskState::Failed, "{mode}");
        assert_eq!(run.tries_of::<ready_after>(), 1, "{mode}");
        assert_eq!(minutes(&run), 35, "{mode}");
        let why = run.reason_of_id("ready_after").unwrap();
        assert!(why.starts_with("the sensor waited longer than its timeout of 2100s"), "{mode}: {why}");
    }
}

/// Goal: a retry does not start the timeout anew. Method: pokes fail for 15 minutes, then nothing is ever ready.
#[tokio::test]
async fn a_retry_keeps_the_time_of_the_first_try() {
    for mode in SensorMode::ALL {
        let run = run(one(shaky::call(2).mode(*mode).timeout(mins(35)))).await;
        assert_eq!(run.tries_of::<shaky>(), 3, "{mode}: errors of pokes are tried again");
        assert_eq!(minutes(&run), 35, "{mode}");
        run.assert_failed();
    }
}

/// Goal: what is to be skipped instead of failing is skipped, as documented.
#[tokio::test]
async fn soft_silent_and_never_fail_say_what_an_error_means() {
    let late = || ready_after::call(100_000).timeout(mins(35));
    let soft = run(one(late().soft_fail(true).deferred())).await;
    assert_eq!(soft.state_of::<ready_after>(), TaskState::Skipped);
    let never = run(one(late().never_fail(true))).await;
    assert_eq!(never.state_of::<ready_after>(), TaskState::Failed, "a timeout is no error of a poke");
    for (sensor, state) in [
        (hopeless::call().retries(1), TaskState::Failed),
        (hopeless::call().soft_fail(true), TaskState::Skipped),
        (hopeless::call().never_fail(true), TaskState::Skipped),
        (hopeless::call().silent_fail(true), TaskState::Failed),
    ] {
        let run = run(one(sensor)).await;
        assert_eq!((run.state_of::<hopeless>(), run.tries_of::<hopeless>()), (state, 1));
    }
    let quiet = shaky::call(25).silent_fail(true).timeout(mins(40));
    let run_of_quiet = run(one(quiet)).await;
    assert_eq!(run_of_quiet.tries_of::<shaky>(), 1, "errors count as not yet");
    let run_of_never = run(one(shaky::call(25).never_fail(true))).await;
    assert_eq!(run_of_never.state_of::<shaky>(), TaskState::Skipped);
    let run_of_soft = run(one(shaky::call(25).soft_fail(true))).await;
    assert_eq!(run_of_soft.state_of::<shaky>(), TaskState::Failed, "an ordinary error is no timeout");
}

/// Goal: pauses grow across reschedules and end at `max_wait`.
#[tokio::test]
async fn pauses_grow_up_to_the_longest() {
    let sensor = || ready_after::call(300).poke_every(mins(1)).poke_backoff(true).max_wait(mins(30));
    let mut looks = Vec::new();
    for mode in [SensorMode::Poke, SensorMode::Reschedule] {
        let run = run(one(sensor().mode(mode))).await;
        run.assert_success();
        let events = run.events();
        let begun: Vec<_> = events.iter().filter(|e| e.to == TaskState::Running).map(|e| e.at).collect();
        let pauses: Vec<i64> = begun.windows(2).map(|at| (at[1] - at[0]).num_seconds()).collect();
        looks.push((mode, minutes(&run), pauses));
    }
    let (_, ended, pauses) = &looks[1];
    assert_eq!(*ended, looks[0].1, "both modes look at the same moments");
    assert!((30..60).contains(&pauses[0]) && (60..120).contains(&pauses[1]), "{pauses:?}");
    assert!((120..240).contains(&pauses[2]) && (240..480).contains(&pauses[3]), "{pauses:?}");
    assert_eq!(pauses.last(), Some(&1800), "{pauses:?}");
}

/// Goal: a sensor that knows the moment is looked at then and not before.
#[tokio::test]
async fn a_sensor_that_knows_the_moment_is_looked_at_then() {
    #[sensor]
    async fn at_nine(cx: &TaskContext) -> Result<Poke> {
        let nine = cx.logical_date() + chrono::TimeDelta::hours(9);
        Ok(if cx.now() >= nine { Poke::Ready(()) } else { Poke::NotBefore(nine) })
    }
    let run = run(one(at_nine::call().reschedule())).await;
    let events = run.events();
    assert_eq!(events.iter().filter(|e| e.to == TaskState::Running).count(), 2);
    assert_eq!(minutes(&run), 9 * 60);
}

/// Fires after so many minutes, with a number.
#[derive(Serialize, Deserialize)]
pub(crate) struct Later {
    pub(crate) minutes: u64,
    pub(crate) broken: bool,
}

impl Trigger for Later {
    type Event = u64;
    const KIND: &'static str = "test::Later";

    async fn wait(&self, cx: &TaskContext) -> Result<u64> {
        cx.sleep(mins(self.minutes)).await;
        if self.broken { Err(TaskError::msg("the service is gone")) } else { Ok(self.minutes * 2) }
    }
}

#[derive(Operator)]
#[operator(triggers(Later))]
struct Job {
    minutes: u64,
    broken: bool,
    limit: Option<u64>,
}

impl Job {
    fn of(minutes: u64) -> Self {
        Self { minutes, broken: false, limit: None }
    }
}

impl Execute for Job {
    type Output = String;

    async fn execute(&self, cx: &TaskContext) -> Result<String> {
        cx.xcom_push("begun", &1)?;
        let deferral = Deferral::until(Later { minutes: self.minutes, broken: self.broken });
        let deferral = deferral.resume_at("job_done").kwargs(&("job", 7));
        Err(match self.limit {
            Some(limit) => deferral.timeout(mins(limit)).into(),
            None => deferral.into(),
        })
    }

    async fn resume(&self, cx: &TaskContext, resumed: &Resumed) -> Result<String> {
        assert_eq!(cx.xcom_pull::<u32>(cx.task_id().clone(), "begun").await?, Some(1), "it stays");
        let (what, number): (String, u32) = resumed.kwargs()?;
        let event: u64 = resumed.event()?;
        Ok(format!("{} {what} {number}: {event}", resumed.method()))
    }
}

/// Goal: a deferred task goes on at its method with the event, in the same try, and keeps what it pushed before.
#[tokio::test]
async fn a_deferred_task_goes_on_with_the_event() {
    let run = run(one(Job::of(90))).await;
    run.assert_success();
    assert_eq!(run.output::<Job>(), Some("job_done job 7: 180".to_owned()));
    assert_eq!((minutes(&run), run.tries_of::<Job>()), (90, 1));
    let states: Vec<_> = run.events().iter().map(|event| event.to.to_string()).collect();
    assert_eq!(states, ["running", "deferred", "scheduled", "running", "success"]);
}

/// Goal: the end of a wait in error costs a try; so does its timeout, and that of the attempt over all of its try.
#[tokio::test]
async fn a_wait_that_fails_costs_a_try() {
    let broken = Job { broken: true, ..Job::of(5) };
    let run_of_broken = run(one(broken.retries(1).retry_delay(mins(1)))).await;
    assert_eq!((run_of_broken.tries_of::<Job>(), minutes(&run_of_broken)), (2, 11));
    assert_eq!(run_of_broken.reason_of_id("job"), Some("the service is gone"));
    let slow = Job { limit: Some(3), ..Job::of(5) };
    let run_of_slow = run(one(slow.retries(1).retry_delay(mins(1)))).await;
    assert_eq!((run_of_slow.tries_of::<Job>(), minutes(&run_of_slow)), (2, 7));
    let limited = run(one(Job::of(5).execution_timeout(mins(2)))).await;
    assert_eq!(minutes(&limited), 2);
    assert!(limited.reason_of_id("job").unwrap().contains("longer than its timeout"));
}

/// Goal: a trigger that is not announced is a mistake that shows at once, not after a restart.
#[tokio::test]
async fn an_unknown_trigger_is_refused_at_once() {
    #[task(retries = 3)]
    async fn careless() -> Result<()> {
        Err(Deferral::until(Later { minutes: 1, broken: false }).into())
    }
    let run = run(one(careless::call())).await;
    assert_eq!(run.tries_of::<careless>(), 1);
    let why = run.reason_of_id("careless").unwrap();
    assert!(why.contains("defers to the trigger `test::Later`, which it does not announce"), "{why}");
}

/// Goal: a task function that was deferred is called again and sees the event.
#[tokio::test]
async fn a_task_function_is_called_again() {
    #[task(triggers(Later))]
    async fn twice(cx: &TaskContext) -> Result<u64> {
        match cx.resumed() {
            Some(resumed) => resumed.event(),
            None => Err(Deferral::until(Later { minutes: 4, broken: false }).into()),
        }
    }
    assert_eq!(run(one(twice::call())).await.output::<twice>(), Some(8));
}

async fn slots(sim: &Sim) -> Vec<(SlotKey, i64)> {
    sim.airflow().store().slots().await.unwrap()
}

/// Goal: clearing, marking and failing a deferred task ends its wait and gives back everything it holds.
#[tokio::test]
async fn nothing_is_left_of_a_deferred_task() {
    let sim = Sim::new([one(Job::of(600).max_active_tis_per_dag(1))]).start("2026-03-02").await;
    let run = sim.trigger("d").await.unwrap();
    let id = run.run_id.as_str();
    let state = |sim: &Sim| sim.run("d", id).state_of::<Job>();
    sim.advance(mins(5)).await;
    assert_eq!(state(&sim), TaskState::Deferred);
    let held = slots(&sim).await;
    let deferred = SlotKey::Deferred("default_pool".into());
    assert!(held.contains(&(deferred.clone(), 1)), "{held:?}");
    assert!(!held.iter().any(|(key, _)| matches!(key, SlotKey::Pool(_) | SlotKey::Dag(_))), "{held:?}");
    assert!(held.iter().any(|(key, _)| matches!(key, SlotKey::Task(..))), "{held:?}");

    sim.clear("d", id, &["job"]).await;
    sim.advance(mins(5)).await;
    assert_eq!(state(&sim), TaskState::Deferred, "it has begun anew");
    assert_eq!(slots(&sim).await, held);
    sim.mark("d", id, &["job"], Mark::Success).await;
    sim.settle().await;
    assert_eq!(state(&sim), TaskState::Success);
    assert_eq!(slots(&sim).await, []);
    sim.assert_idle();

    let run = sim.trigger("d").run_id("second").await.unwrap();
    sim.advance(mins(5)).await;
    sim.airflow().mark_run(&run.dag_id, &run.run_id, false, "test").await.unwrap();
    sim.advance(hours(12)).await;
    assert_eq!(sim.run("d", "second").state_of::<Job>(), TaskState::Skipped);
    assert_eq!(slots(&sim).await, []);
}

/// Counts the calls of `on_kill`.
struct Kills(Arc<AtomicU32>);

#[derive(Operator)]
#[operator(triggers(Later), needs(Kills))]
struct Killable;

impl Execute for Killable {
    type Output = ();

    async fn execute(&self, _: &TaskContext) -> Result<()> {
        Err(Deferral::until(Later { minutes: 10, broken: false }).into())
    }

    async fn resume(&self, _: &TaskContext, _: &Resumed) -> Result<()> {
        Ok(())
    }

    async fn on_kill(&self, cx: &TaskContext) {
        cx.resource::<Kills>().unwrap().0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Goal: what a deferred task has started elsewhere is stopped when a user ends its wait, and only then. Method: let it fire,
/// kill the process, clear it, mark it, fail its run; count after each.
#[tokio::test]
async fn only_a_user_stops_what_is_waited_for() {
    let kills = Arc::new(AtomicU32::new(0));
    let sim = Sim::new([one(Killable)]).resource(Kills(Arc::clone(&kills))).start("2026-03-02").await;
    let count = || kills.load(Ordering::Relaxed);
    let first = sim.trigger("d").run_id("first").await.unwrap();
    sim.advance(mins(5)).await;
    sim.kill().await;
    sim.advance(mins(30)).await;
    assert_eq!(sim.run("d", "first").state(), RunState::Success);
    assert_eq!(count(), 0, "it fired");
    sim.clear("d", "first", &["killable"]).await;
    sim.advance(mins(5)).await;
    assert_eq!(sim.run("d", "first").state_of::<Killable>(), TaskState::Deferred);
    sim.clear("d", "first", &["killable"]).await;
    sim.advance(mins(5)).await;
    assert_eq!(count(), 1, "it was cleared");
    sim.mark("d", "first", &["killable"], Mark::Success).await;
    sim.advance(mins(5)).await;
    assert_eq!(count(), 2, "it was marked");
    sim.clear("d", "first", &["killable"]).await;
    sim.advance(mins(5)).await;
    sim.airflow().mark_run(&first.dag_id, &first.run_id, false, "test").await.unwrap();
    sim.advance(mins(5)).await;
    assert_eq!(count(), 3, "its run was failed");
    sim.assert_idle();
}

/// Goal: a wait outlives its process, whatever that did; the sensor's timeout does not start anew.
#[tokio::test]
async fn waits_outlive_their_process() {
    let dag = DagDef::new("d").define(|d| {
        d.add(Job::of(60));
        d.add(ready_after::call(60).deferred());
        d.add(ready_after::call(100_000).deferred().timeout(mins(95)).id("late").retries(2));
    });
    let sim = Sim::new([dag]).start("2026-03-02").await;
    let run = sim.trigger("d").await.unwrap();
    let id = run.run_id.as_str();
    sim.advance(mins(25)).await;
    sim.kill().await;
    sim.advance(mins(30)).await;
    assert_eq!(sim.run("d", id).state_of::<Job>(), TaskState::Deferred, "{}", sim.states("d", id));
    sim.kill().await;
    sim.advance(mins(11)).await;
    assert_eq!(
        sim.run("d", id).output_of::<i64>("ready_after"),
        Some(65),
        "looks at 25, 55 and then every 10 minutes"
    );
    assert_eq!(
        sim.run("d", id).state_of::<Job>(),
        TaskState::Deferred,
        "its trigger began anew at minute 55"
    );
    sim.advance(mins(60)).await;
    let done = sim.run("d", id);
    assert_eq!(done.state_of::<Job>(), TaskState::Success);
    assert_eq!((done.state_of_id("late"), done.tries_of_id("late")), (TaskState::Failed, 1));
    sim.assert_idle();
}

/// Goal: deferred tasks count against a pool that says so, and not otherwise.
#[tokio::test]
async fn a_pool_may_count_deferred_tasks() {
    for (include_deferred, most) in [(false, 3), (true, 1)] {
        let dag = DagDef::new("d").define(|d| {
            for index in 0..3 {
                d.add(Job::of(10).pool("narrow").id(format!("job{index}")));
            }
        });
        let sim = Sim::new([dag]).pool("narrow", 1).start("2026-03-02").await;
        let pool = airflow::store::PoolSpec {
            name: "narrow".into(),
            slots: 1,
            description: String::new(),
            include_deferred,
        };
        sim.airflow().store().set_pool(pool).await.unwrap();
        // The next process reads it.
        sim.kill().await;
        let run = sim.trigger("d").await.unwrap();
        sim.advance(mins(1)).await;
        let tasks = sim.run("d", run.run_id.as_str());
        let deferred = tasks.tasks().iter().filter(|task| task.state == TaskState::Deferred).count();
        assert_eq!(deferred, most, "{tasks}");
        sim.advance(mins(40)).await;
        sim.assert_idle();
        assert_eq!(slots(&sim).await, []);
    }
}

/// Goal: people are told what a sensor waits for.
#[tokio::test]
async fn explanations_name_the_date_and_the_trigger() {
    let dag = DagDef::new("d").define(|d| {
        d.add(ready_after::call(60).reschedule());
        d.add(Job { limit: Some(30), ..Job::of(20) });
        d.add(ready_after::call(60).deferred().id("poking"));
    });
    let sim = Sim::new([dag]).start("2026-03-02").await;
    let run = sim.trigger("d").await.unwrap();
    sim.advance(mins(1)).await;
    let run = sim.run("d", run.run_id.as_str());
    let why = |task: &str| run.reason_of_id(task).unwrap().to_owned();
    assert_eq!(
        why("ready_after"),
        "its reschedule date is not reached: it is run again at 2026-03-02 00:10:00 UTC"
    );
    assert_eq!(
        why("job"),
        "it is deferred until `test::Later` fires, since 2026-03-02 00:00:00 UTC, until 2026-03-02 00:30:00 UTC at most"
    );
    assert_eq!(
        why("poking"),
        "it is deferred: its sensor pokes until it is ready, since 2026-03-02 00:00:00 UTC"
    );
}
