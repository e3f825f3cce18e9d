//! What templates of real runs know.

use std::sync::atomic::{AtomicU32, Ordering};

use airflow::prelude::*;

/// Returns its text as rendered.
#[derive(Operator, Clone, Serialize, Deserialize)]
pub(crate) struct Say {
    #[template]
    pub(crate) text: String,
}

impl Execute for Say {
    type Output = String;

    async fn execute(&self, _: &TaskContext) -> Result<String> {
        Ok(self.text.clone())
    }
}

pub(crate) fn say(text: &str) -> Say {
    Say { text: text.to_owned() }
}

/// The same, once for each element of a mapping.
#[derive(Operator, Clone)]
struct SayOf {
    #[template]
    text: String,
    #[input]
    n: In<i64>,
}

impl Execute for SayOf {
    type Output = String;

    async fn execute(&self, cx: &TaskContext) -> Result<String> {
        Ok(format!("{}: {}", self.n.get(cx)?, self.text))
    }
}

#[task]
async fn three() -> Result<Vec<i64>> {
    Ok(vec![10, 20, 30])
}

/// Goal: a template knows how many instances its task has. Method: a mapped task, a task of a mapped group, and one that
/// is not mapped.
#[tokio::test]
async fn a_template_knows_how_many_instances_its_task_has() {
    let of = "{{ ti.map_index }} of {{ expanded_ti_count }}";
    let dag = DagDef::new("d").define(|d| {
        let numbers = d.add(three::call());
        d.map(numbers, |n| SayOf { text: of.into(), n: n.into_in() }.id("mapped"));
        d.map_group("each", numbers, |d, n| {
            let first = d.add(SayOf { text: "first".into(), n: n.into_in() }.id("first"));
            let second = d.add(say(of).id("second"));
            d.order(first >> second);
            second
        });
        d.add(say(of).id("alone"));
    });
    let run = DagTest::new(dag).run().await;
    run.assert_success();
    for (n, value) in [10, 20, 30].iter().enumerate() {
        let mapped = run.output_of::<String>(&format!("mapped[{n}]"));
        assert_eq!(mapped, Some(format!("{value}: {n} of 3")));
        assert_eq!(run.output_of::<String>(&format!("each.second[{n}]")), Some(format!("{n} of 3")));
    }
    assert_eq!(run.output_of::<String>("alone").as_deref(), Some("-1 of None"));
}

/// Goal: a template knows its try and how often that try has come back. Method: each of two tries comes back a few times
/// before it ends.
#[tokio::test]
async fn a_template_knows_its_try_and_how_often_it_has_come_back() {
    let dag = DagDef::new("d").define(|d| {
        d.add(say("{{ try_number }} {{ ti.try_number }} {{ task_reschedule_count }}").retries(1));
    });
    let (tries, start) = (AtomicU32::new(0), "2026-01-01T00:00:00Z".parse::<DateTime<Utc>>().unwrap());
    let test =
        DagTest::new(dag).at(start).mock::<Say>(move |_| match tries.fetch_add(1, Ordering::Relaxed) {
            n @ (0 | 1 | 3..6) => Err(TaskError::Reschedule(start + mins(10) * (n + 1))),
            2 => Err(TaskError::msg("the first try ends")),
            _ => Ok("done".into()),
        });
    let run = test.run().await;
    run.assert_success();
    assert_eq!(run.rendered::<Say>()["text"], "2 2 3", "the first try had come back twice");
}

/// Goal: a template knows the machine that it is rendered on, and only a test command is one.
#[tokio::test]
async fn a_template_knows_its_machine() {
    let dag = DagDef::new("d").define(|d| {
        d.add(say("{{ ti.hostname }}|{{ test_mode }}|{{ ti.log_url }}"));
    });
    let run = DagTest::new(dag).run().await;
    let here = airflow::scheduler::host_name();
    assert!(!here.is_empty());
    assert_eq!(run.output::<Say>(), Some(format!("{here}|False|")));
}
