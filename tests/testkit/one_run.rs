//! `DagTest`: outputs, mocks, failures, times.

use airflow::prelude::*;
use airflow::state::{RunState, TaskState};
use airflow::time::parse_duration;
use serde_json::json;

use crate::tasks::*;

fn orders() -> Vec<Order> {
    vec![Order { id: 1, cents: 200 }, Order { id: 2, cents: 300 }]
}

fn sales_test() -> DagTest {
    DagTest::new(sales()).at("2026-03-02T06:00+01:00").resource(Rates(1)).mock::<extract>(|_| Ok(orders()))
}

/// Goal: the example of the documentation holds, word for word.
#[tokio::test]
async fn outputs_are_typed_and_mocked_tasks_need_no_resources() {
    let run = sales_test().run().await;
    run.assert_success();
    assert_eq!(run.output::<total>(), Some(500));
    assert_eq!(run.outputs::<price>(), [200, 300]);
    assert_eq!(run.output_of::<String>("report").as_deref(), Some("finance@example.org: 500"));
    assert_eq!(run.state_of::<report>(), TaskState::Success);
    assert_eq!(run.state_of_id("price[1]"), TaskState::Success);
    assert_eq!(run.run().run_id.as_str(), "scheduled__2026-03-02T05:00:00+00:00");
    assert_eq!(run.run().data_interval.end.to_rfc3339(), "2026-03-03T05:00:00+00:00");
    assert_eq!(run.started(), ["extract", "price[0]", "price[1]", "total", "report"]);
}

#[tokio::test]
async fn a_mock_by_id_comes_before_one_by_operator() {
    let dag = DagDef::new("d").define(|d| {
        let a = d.add(total::call(vec![1]).id("a"));
        let b = d.add(total::call(vec![2]).id("b"));
        d.order(d.add(report::call(a, "x")) >> d.add(report::call(b, "y")));
    });
    let test =
        DagTest::new(dag).mock::<total>(|_| Ok(7)).mock_id("b", |cx| Ok(i64::from(cx.try_number()) + 40));
    let run = test.run().await;
    assert_eq!(run.outputs::<total>(), [7, 41]);
    assert_eq!(run.outputs::<report>(), ["x: 7", "y: 41"]);
}

/// Goal: a test that can mean nothing is refused.
#[tokio::test]
async fn mocks_that_fit_no_task_are_refused() {
    for (test, why) in [
        (DagTest::new(one_task("d")).mock::<total>(|_| Ok(1)), "no task is made from it"),
        (DagTest::new(one_task("d")).mock_id("wrok", |_| Ok(1)), "there are only: work"),
        (DagTest::new(one_task("d")).mock_id("work", |_| Ok(1)), "returns `i32`, the task returns `()`"),
        (DagTest::new(sales()), "Rates"),
    ] {
        let panic = tokio::spawn(test.run()).await.unwrap_err().into_panic();
        let text = panic.downcast_ref::<String>().unwrap();
        assert!(text.contains(why), "{text}");
    }
}

#[tokio::test]
async fn the_first_tries_fail_and_retries_wait_on_the_simulated_clock_only() {
    let run = sales_test().fail::<price>(2).run().await;
    run.assert_success();
    assert_eq!(run.tries_of_id("price[0]"), 3);
    assert_eq!(run.tries_of::<total>(), 1);
    let begun = run.run().started_at.unwrap();
    let took = run.run().ended_at.unwrap() - begun;
    assert_eq!(took.num_seconds(), 60, "two retries after 30 s each");
}

#[tokio::test]
async fn a_failed_run_tells_everything() {
    let run = sales_test().fail::<price>(9).run().await;
    run.assert_failed();
    assert_eq!(run.state(), RunState::Failed);
    assert_eq!(
        run.states(),
        "extract   success          1
price[0]  failed           3  the test lets try 3 of 9 fail
price[1]  failed           3  the test lets try 3 of 9 fail
total     upstream_failed  0  its trigger rule `all_success` cannot hold any more
report    upstream_failed  0  its trigger rule `all_success` cannot hold any more
"
    );
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.assert_success())).unwrap_err();
    let text = panic.downcast_ref::<String>().unwrap();
    assert!(text.contains("the run should be success, but:") && text.contains("price[1]  failed"), "{text}");
}

/// An option put on a task.
type Change = fn(airflow::dag::Spec<work>) -> airflow::dag::Spec<work>;

/// Goal: the waits between tries are the configured ones, to the second. Method: record when tries begin.
#[tokio::test]
async fn retry_delays_are_exact() {
    let cases: [(&str, Change, &[i64]); 3] = [
        ("constant", |t| t.retry_delay(mins(5)), &[300, 300, 300]),
        ("capped", |t| t.retry_delay(mins(1)).exponential_backoff().max_retry_delay(secs(90)), &[90, 90, 90]),
        ("grows", |t| t.retry_delay(secs(100)).exponential_backoff(), &[]),
    ];
    for (id, options, expected) in cases {
        let dag = DagDef::new(id).define(|d| {
            d.add(options(work::call().retries(3)));
        });
        let run = DagTest::new(dag).at("2026-01-01T00:00Z").fail::<work>(3).run().await;
        run.assert_success();
        let starts: Vec<_> =
            run.events().iter().filter(|e| e.to == TaskState::Running).map(|e| e.at).collect();
        let waits: Vec<i64> = starts.windows(2).map(|two| (two[1] - two[0]).num_seconds()).collect();
        if expected.is_empty() {
            for (index, wait) in waits.iter().enumerate() {
                let base = 100 << index;
                assert!((base..2 * base).contains(wait), "try {index}: {wait}");
            }
        } else if id == "capped" {
            // The first wait lies in [60, 90], as the share that is added depends on the names.
            assert!((60..=90).contains(&waits[0]), "{waits:?}");
            assert_eq!(waits[1..], expected[1..]);
        } else {
            assert_eq!(waits, expected);
        }
    }
}

#[tokio::test]
async fn a_task_that_takes_too_long_is_timed_out_in_simulated_time() {
    let dag = DagDef::new("d").define(|d| {
        d.add(work::call().timeout(mins(5)).retries(1).retry_delay(mins(1)));
    });
    let run = DagTest::new(dag).takes::<work>(mins(10)).run().await;
    run.assert_failed();
    assert_eq!(run.tries_of::<work>(), 2);
    let took = run.run().ended_at.unwrap() - run.run().started_at.unwrap();
    assert_eq!(took.to_std().unwrap(), parse_duration("11m").unwrap());
    assert_eq!(run.tasks()[0].reason.as_deref(), Some("the attempt took longer than its timeout of 300s"));
}

/// Goal: a task that waits for something that never comes ends by its timeout, or ends the test.
#[tokio::test]
async fn a_task_that_hangs_times_out_or_is_named() {
    let dag = |timeout| {
        DagDef::new("d").define(move |d| {
            let task = stuck::call();
            d.add(if timeout { task.timeout(hours(1)) } else { task });
        })
    };
    let patience = std::time::Duration::from_millis(20);
    DagTest::new(dag(true)).patience(patience).run().await.assert_failed();
    let hangs = tokio::spawn(DagTest::new(dag(false)).patience(patience).run()).await;
    let panic = hangs.unwrap_err().into_panic();
    let text = panic.downcast_ref::<String>().unwrap();
    assert!(text.contains("`stuck` of run `manual__2026-01-01T00:00:00+00:00` has not ended"), "{text}");
}

#[task]
async fn panics(cx: &TaskContext) -> Result<u32> {
    assert!(cx.try_number() > 1, "the first try panics");
    Ok(cx.try_number())
}

#[tokio::test]
async fn a_panic_is_a_failure_that_is_tried_again() {
    let dag = |retries| {
        DagDef::new("d").define(move |d| {
            d.add(panics::call().retries(retries));
        })
    };
    let run = DagTest::new(dag(1)).run().await;
    assert_eq!(run.output::<panics>(), Some(2));
    let run = DagTest::new(dag(0)).run().await;
    assert_eq!(run.tasks()[0].reason.as_deref(), Some("the task panicked: the first try panics"));
    let run = DagTest::new(one_task("d")).mock::<work>(|_| panic!("even the mock")).run().await;
    assert_eq!(run.tasks()[0].reason.as_deref(), Some("the task panicked: even the mock"));
}

#[derive(Operator, Clone, Serialize, Deserialize)]
struct Post {
    #[template]
    channel: String,
    #[template]
    lines: Vec<String>,
}

impl Execute for Post {
    type Output = String;

    async fn execute(&self, _: &TaskContext) -> Result<String> {
        Ok(self.lines.join(","))
    }
}

#[tokio::test]
async fn templates_are_rendered_also_for_mocked_tasks() {
    let dag = || {
        DagDef::new("d").define(|d| {
            let lines = vec!["{{ ds }}".into(), "{{ var.value.team }}".into(), "{{ params.n }}".into()];
            d.add(Post { channel: "#{{ dag.dag_id }}".into(), lines });
        })
    };
    let test = |dag| DagTest::new(dag).at("2026-03-02").variable("team", "blue").conf(&json!({"n": 3}));
    for run in [test(dag()).run().await, test(dag()).mock::<Post>(|_| Ok("mocked".into())).run().await] {
        run.assert_success();
        assert_eq!(run.rendered::<Post>(), &json!({"channel": "#d", "lines": ["2026-03-02", "blue", "3"]}));
    }
    let run = test(dag()).run().await;
    assert_eq!(run.output::<Post>().as_deref(), Some("2026-03-02,blue,3"));
}

/// Goal: a template knows the dates around that of its run: by the schedule, or the run's own if nobody scheduled it.
#[tokio::test]
async fn templates_know_the_dates_around_their_run() {
    let dag = || {
        DagDef::new("d").schedule("0 6 * * MON-FRI").start_date("2026-03-01").define(|d| {
            let lines = vec!["{{ prev_ds }} {{ ds }} {{ next_ds }}".into()];
            d.add(Post { channel: "#d".into(), lines });
        })
    };
    let sim = Sim::new([dag()]).start("2026-03-01").await;
    sim.advance_to("2026-03-07").await;
    let ids = sim.runs("d").ids();
    let monday = sim.run("d", &ids[ids.len() - 1]);
    assert_eq!(monday.output::<Post>().as_deref(), Some("2026-03-04 2026-03-05 2026-03-06"));
    let run = DagTest::new(dag()).at("2026-03-05").run().await;
    assert_eq!(run.output::<Post>().as_deref(), Some("2026-03-05 2026-03-05 2026-03-05"));
}

#[tokio::test]
async fn conf_reaches_the_tasks() {
    let dag = DagDef::new("d").define(|d| {
        d.add(conf::call());
    });
    let run = DagTest::new(dag).conf(&json!({"day": 3})).run().await;
    assert_eq!(run.output::<conf>(), Some(json!({"day": 3})));
}

#[task]
async fn sleeps() -> Result<()> {
    tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    tokio::task::spawn_blocking(|| std::thread::sleep(std::time::Duration::from_millis(5))).await?;
    Ok(())
}

#[tokio::test]
async fn a_task_that_really_waits_is_waited_for() {
    let dag = DagDef::new("d").define(|d| {
        d.add(sleeps::call().timeout(secs(1)));
    });
    DagTest::new(dag).run().await.assert_success();
}

#[task]
async fn sensor(cx: &TaskContext) -> Result<u32> {
    let waited = cx.run().started_at.map_or(0, |_| 1);
    Ok(waited)
}

#[tokio::test]
async fn a_reschedule_comes_back_at_its_time_without_costing_a_try() {
    let dag = DagDef::new("d").define(|d| {
        d.add(sensor::call());
    });
    let pokes = std::sync::atomic::AtomicU32::new(0);
    let start: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().unwrap();
    let test = DagTest::new(dag).at(start).mock::<sensor>(move |_| {
        let poke = pokes.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        match poke {
            0..3 => Err(TaskError::Reschedule(start + mins(10) * (poke + 1))),
            _ => Ok(poke),
        }
    });
    let run = test.run().await;
    run.assert_success();
    assert_eq!((run.output::<sensor>(), run.tries_of::<sensor>()), (Some(3), 1));
    assert_eq!((run.run().ended_at.unwrap() - start).num_minutes(), 30);
}

/// Goal: a run that can never go on is handed back with the reason, instead of waiting for ever.
#[tokio::test]
async fn a_run_that_cannot_go_on_says_why() {
    let dag = DagDef::new("d").define(|d| {
        d.add(work::call().pool("gpu"));
    });
    let run = DagTest::new(dag).pool("gpu", 0).run().await;
    assert_eq!(run.state(), RunState::Running);
    assert_eq!(run.states(), "work  scheduled        1  `pool:gpu` is full: 0 of 0 taken, 1 needed\n");
}
