//! How a run goes through its dag: rules, branches, mappings, setups, limits.

use airflow::app::Mark;
use airflow::prelude::*;
use airflow::state::RunState;

use crate::tasks::*;

#[task]
async fn numbers() -> Result<Vec<i64>> {
    Ok(vec![1, 2, 3])
}
#[task]
async fn nothing() -> Result<Vec<i64>> {
    Ok(Vec::new())
}
#[task]
async fn double(n: i64) -> Result<i64> {
    Ok(n * 2)
}
#[task]
async fn pair(p: (i64, i64)) -> Result<String> {
    Ok(format!("{}{}", p.0, p.1))
}
#[task]
async fn skip() -> Result<()> {
    Err(TaskError::skip("not today"))
}

fn dag(define: impl FnOnce(&Dag)) -> DagDef {
    DagDef::new("d").define(define)
}

/// Names and states only.
async fn states(test: DagTest) -> String {
    let run = test.run().await;
    let tasks = run.tasks().iter().map(|task| format!("{}={}", task.label(), task.state));
    format!("{}: {}", run.state(), tasks.collect::<Vec<_>>().join(" "))
}

/// Goal: each trigger rule decides as documented. Method: one task that succeeds, one that fails and one that is
/// skipped, in pairs, before a task with the rule.
#[tokio::test]
async fn trigger_rules_decide_on_what_came_before() {
    use TriggerRule as R;
    const TABLE: &[(TriggerRule, [&str; 4])] = &[
        // ok + ok, ok + failed, ok + skipped, failed + skipped
        (R::AllSuccess, ["success", "upstream_failed", "skipped", "upstream_failed"]),
        (R::AllFailed, ["skipped", "skipped", "skipped", "skipped"]),
        (R::AllDone, ["success", "success", "success", "success"]),
        (R::OneSuccess, ["success", "success", "success", "upstream_failed"]),
        (R::OneFailed, ["skipped", "success", "skipped", "success"]),
        (R::NoneFailed, ["success", "upstream_failed", "success", "upstream_failed"]),
        (R::NoneSkipped, ["success", "success", "skipped", "skipped"]),
        (R::NoneFailedMinOneSuccess, ["success", "upstream_failed", "success", "upstream_failed"]),
        (R::AllSkipped, ["skipped", "skipped", "skipped", "skipped"]),
        (R::Always, ["success", "success", "success", "success"]),
    ];
    for (rule, expected) in TABLE {
        for (index, wanted) in expected.iter().enumerate() {
            let dag = dag(|d| {
                let ok = d.add(work::call().id("ok")).node();
                let other = match index {
                    0 => d.add(work::call().id("ok2")).node(),
                    1 => d.add(broken::call()).node(),
                    2 => d.add(skip::call()).node(),
                    _ => d.add(broken::call()).node(),
                };
                let first = if index == 3 { d.add(skip::call()).node() } else { ok };
                d.order([first, other] >> d.add(work::call().id("last").when(*rule)));
            });
            let run = DagTest::new(dag).run().await;
            let state = run.state_of_id("last").to_string();
            assert_eq!(state, *wanted, "{rule} case {index}\n{run}");
        }
    }
}

#[derive(Serialize, Deserialize, Branch)]
enum Way {
    Left,
    Right,
    Nowhere,
}

#[task]
async fn choose() -> Result<Way> {
    Ok(Way::Left)
}
#[task]
async fn is_open() -> Result<bool> {
    Ok(false)
}

fn branching() -> DagDef {
    dag(|d| {
        let way = d.add(choose::call());
        let (left, right) = (d.add(work::call().id("left")), d.add(work::call().id("right")));
        d.branch(way, |w| match w {
            Way::Left => left.into(),
            Way::Right => right.into(),
            Way::Nowhere => Nodes::none(),
        });
        let after = d.add(work::call().id("after"));
        let join = d.add(work::call().id("join").when(TriggerRule::NoneFailedMinOneSuccess));
        d.order(right >> after);
        d.order((left, after) >> join);
    })
}

#[tokio::test]
async fn a_branch_skips_what_it_does_not_choose() {
    let test = |way: fn() -> Way| DagTest::new(branching()).mock::<choose>(move |_| Ok(way()));
    for (way, expected) in [
        (
            (|| Way::Left) as fn() -> Way,
            "success: choose=success left=success right=skipped after=skipped join=success",
        ),
        (|| Way::Right, "success: choose=success left=skipped right=success after=success join=success"),
        (|| Way::Nowhere, "success: choose=success left=skipped right=skipped after=skipped join=skipped"),
    ] {
        assert_eq!(states(test(way)).await, expected);
    }
}

#[tokio::test]
async fn a_short_circuit_skips_everything_after_it() {
    let dag = |all: bool| {
        dag(|d| {
            let open = d.add(is_open::call());
            let open = if all { d.short_circuit(open) } else { d.skip_unless(open) };
            let next = d.add(work::call().id("next"));
            d.order(open >> next >> d.add(work::call().id("last").when(TriggerRule::AllDone)));
        })
    };
    assert_eq!(states(DagTest::new(dag(true))).await, "success: is_open=success next=skipped last=skipped");
    assert_eq!(states(DagTest::new(dag(false))).await, "success: is_open=success next=skipped last=success");
}

#[tokio::test]
async fn mappings_have_one_instance_for_each_element() {
    let test = dag(|d| {
        let source = d.add(numbers::call());
        let literal = d.map(vec![7, 8], |n| double::call(n).id("literal"));
        let mapped = d.map(source, |n| double::call(n).id("mapped"));
        let chained = d.map(mapped, |n| double::call(n).id("chained"));
        let zipped = d.map(zip(source, literal), |p| pair::call(p).id("zipped"));
        d.map(product(source, vec![5, 6]), |p| pair::call(p).id("product"));
        d.add(total::call(chained));
        d.order(zipped >> d.add(work::call()));
    });
    let run = DagTest::new(test).run().await;
    run.assert_success();
    assert_eq!(run.outputs_of::<i64>("literal"), [14, 16]);
    assert_eq!(run.outputs_of::<i64>("mapped"), [2, 4, 6]);
    assert_eq!(run.outputs_of::<i64>("chained"), [4, 8, 12]);
    assert_eq!(run.outputs_of::<String>("zipped"), ["114", "216"]);
    assert_eq!(run.outputs_of::<String>("product"), ["15", "16", "25", "26", "35", "36"]);
    assert_eq!(run.output::<total>(), Some(24));
}

#[tokio::test]
async fn an_empty_mapping_is_skipped_and_a_failed_source_fails_it() {
    let test = |mapped_over_broken| {
        dag(move |d| {
            let source = d.add(nothing::call().retries(0));
            let mapped = d.map(source, double::call);
            d.add(total::call(mapped).when(if mapped_over_broken {
                TriggerRule::AllSuccess
            } else {
                TriggerRule::AllDone
            }));
        })
    };
    assert_eq!(
        states(DagTest::new(test(false))).await,
        "success: nothing=success double=skipped total=success"
    );
    assert_eq!(
        states(DagTest::new(test(true)).fail::<nothing>(1)).await,
        "failed: nothing=failed double=upstream_failed total=upstream_failed"
    );
}

#[tokio::test]
async fn a_mapped_group_pairs_its_tasks_by_index() {
    let test = dag(|d| {
        let source = d.add(numbers::call());
        let out = d.map_group("each", source, |d, n| {
            let a = d.add(double::call(n).id("a"));
            d.add(double::call(a).id("b"))
        });
        d.add(total::call(out));
    });
    let fails_once = |cx: &TaskContext| match cx.map_index() {
        Some(1) => Err(TaskError::fail("two is odd")),
        other => Ok(i64::from(other.unwrap_or(0))),
    };
    let run = DagTest::new(test).mock_id("each.a", fails_once).run().await;
    run.assert_failed();
    let of = |id| run.state_of_id(id).to_string();
    assert_eq!(
        ["each.a[0]", "each.a[1]", "each.b[0]", "each.b[1]", "each.b[2]", "total"].map(of),
        ["success", "failed", "success", "upstream_failed", "success", "upstream_failed"]
    );
    assert_eq!(run.outputs_of::<i64>("each.b"), [0, 4]);
}

#[tokio::test]
async fn a_teardown_runs_after_failures_and_does_not_decide_the_run() {
    let test = || {
        dag(|d| {
            let up = d.add(work::call().id("up").setup());
            let use_it = d.add(work::call().id("use"));
            let down = d.add(work::call().id("down").teardown_of(up));
            d.order(up >> use_it >> down);
        })
    };
    for (failing, expected) in [
        ("use", "failed: up=success use=failed down=success"),
        ("down", "success: up=success use=success down=failed"),
        ("up", "failed: up=failed use=upstream_failed down=upstream_failed"),
    ] {
        assert_eq!(states(DagTest::new(test()).fail_id(failing, 1)).await, expected);
    }
}

#[tokio::test]
async fn fail_fast_stops_the_run_at_the_first_failure() {
    let test = DagDef::new("d").fail_fast(true).define(|d| {
        d.add(work::call().id("fails"));
        let long = d.add(stuck::call().id("long"));
        d.order(long >> d.add(work::call().id("after")));
    });
    let run = DagTest::new(test)
        .fail_id("fails", 1)
        .takes_id("fails", mins(1))
        .takes_id("long", hours(1))
        .run()
        .await;
    run.assert_failed();
    assert_eq!((run.run().ended_at.unwrap() - run.run().started_at.unwrap()).num_minutes(), 1);
    assert_eq!(
        run.states(),
        "fails  failed           1  the test lets try 1 of 1 fail
long   failed           1  the run stops at its first failure
after  skipped          0  the run stops at its first failure
"
    );
}

#[tokio::test]
async fn a_run_that_takes_too_long_fails_on_the_minute() {
    let test = DagDef::new("d").dagrun_timeout(mins(30)).define(|d| {
        let first = d.add(work::call().id("first"));
        d.order(first >> d.add(work::call().id("second")) >> d.add(work::call().id("third")));
    });
    let run = DagTest::new(test).takes::<work>(mins(20)).run().await;
    run.assert_failed();
    assert_eq!(run.run().reason.as_deref(), Some("timed_out"));
    assert_eq!((run.run().ended_at.unwrap() - run.run().started_at.unwrap()).num_minutes(), 30);
    let tasks: Vec<String> = run.tasks().iter().map(|task| task.state.to_string()).collect();
    assert_eq!(tasks, ["success", "skipped", "skipped"]);
}

/// Goal: a run that has nothing to execute starts and ends at once.
#[tokio::test]
async fn a_run_of_empty_tasks_ends_at_once() {
    let test = dag(|d| {
        d.order(d.add(Empty::new().id("a")) >> d.add(Empty::new().id("b")));
    });
    assert_eq!(states(DagTest::new(test)).await, "success: a=success b=success");
}

/// Goal: a mapping whose length can never be known fails the run instead of hanging. Method: the source of a mapping is
/// declared done before it has returned anything.
#[tokio::test]
async fn a_mapping_over_a_source_without_a_result_fails_the_run() {
    let test = dag(|d| {
        let source = d.add(numbers::call());
        d.map(source, double::call);
    });
    let sim = Sim::new([test]).takes::<numbers>(hours(1)).start("2026-01-01").await;
    let id = sim.trigger("d").await.unwrap().run_id;
    sim.advance(mins(30)).await;
    sim.mark("d", id.as_str(), &["numbers"], Mark::Success).await;
    let run = sim.run("d", id.as_str());
    assert_eq!(run.state(), RunState::Failed, "{run}");
    assert_eq!(run.run().reason.as_deref(), Some("task_failure"));
}

/// Goal: free slots go to the highest weight first.
#[tokio::test]
async fn higher_priority_starts_first() {
    let test = dag(|d| {
        for (id, weight) in [("low", 1), ("high", 9), ("middle", 4)] {
            d.add(work::call().id(id).priority_weight(weight));
        }
        let first = d.add(work::call().id("first"));
        for id in ["a", "b", "c", "d"] {
            d.order(first >> d.add(work::call().id(id)));
        }
    });
    let run = DagTest::new(test).slots(1).run().await;
    // `first` weighs 1 and its four downstream tasks.
    assert_eq!(run.started(), ["high", "first", "middle", "low", "a", "b", "c", "d"], "{run}");
}

/// Goal: at no moment is more taken of a pool than it has. Method: recount what runs after each event.
#[tokio::test]
async fn a_pool_is_never_overdrawn_and_is_used_up() {
    let test = dag(|d| {
        for index in 0..9 {
            let slots = 1 + index % 3;
            d.add(work::call().id(format!("t{slots}_{index}")).pool("small").pool_slots(slots));
        }
    });
    let run = DagTest::new(test).pool("small", 4).takes::<work>(mins(1)).run().await;
    run.assert_success();
    let (mut taken, mut most) = (0, 0);
    for event in run.events() {
        let slots: i32 = event.task_id.as_str()[1..2].parse().unwrap();
        taken += slots * (i32::from(event.to.is_executing()) - i32::from(event.from.is_executing()));
        assert!(taken <= 4, "{taken} slots are taken after {event}");
        most = most.max(taken);
    }
    assert_eq!((taken, most), (0, 4));
}
