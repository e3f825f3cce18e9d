//! What templates of real runs know, and what a dag can change about how they render.

use std::sync::atomic::{AtomicU32, Ordering};

use airflow::prelude::*;
use airflow::template::Undefined;
use serde_json::{Value, json};

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

/// Goal: the names of the last successful run are those of Airflow. Method: four days of a schedule, of which the second
/// fails; each day writes them out.
#[tokio::test]
async fn the_last_success_is_that_before_a_failure() {
    let names = [
        "prev_data_interval_start_success",
        "prev_data_interval_end_success",
        "prev_execution_date_success",
        "prev_start_date_success",
        "prev_end_date_success",
    ];
    let text = names.map(|name| format!("{{{{ {name} | ts }}}}")).join(" ") + " {{ prev_ds }} {{ next_ds }}";
    let dag = DagDef::new("d").schedule("@daily").start_date("2026-03-01").catchup(true).define(|d| {
        d.add(say(&text));
    });
    let sim = Sim::new([dag]).start("2026-03-01").await;
    sim.advance_to("2026-03-02T12:00Z").await;
    sim.fail_next::<Say>(TaskError::fail("the second day"));
    sim.advance_to("2026-03-05T12:00Z").await;
    let ids = sim.runs("d").ids();
    let days: Vec<_> = ids.iter().map(|id| sim.run("d", id)).collect();
    let states: Vec<String> = days.iter().map(|day| day.state().to_string()).collect();
    assert_eq!(states, ["success", "failed", "success", "success"]);
    let shown = |day: usize| days[day].rendered_of("say")["text"].as_str().unwrap().to_owned();
    let success = |day: usize, own: usize| {
        let run = days[day].run();
        let times = [
            run.data_interval.start,
            run.data_interval.end,
            run.logical_date,
            run.started_at.unwrap(),
            run.ended_at.unwrap(),
        ];
        let times = times.map(|time| time.to_rfc3339()).join(" ");
        format!("{times} 2026-03-0{own} 2026-03-0{}", own + 2)
    };
    assert_eq!(shown(0), "None None None None None 2026-02-28 2026-03-02");
    assert_eq!(shown(2), success(0, 2), "the first day, as the second failed");
    assert_eq!(shown(3), success(2, 3), "the third day");
}

/// Goal: functions and filters of a dag's own are used by its templates, and checked when it is built.
#[tokio::test]
async fn a_dag_has_functions_and_filters_of_its_own() {
    let dag = |text: &str| {
        let repeat = |args: &[Value]| match args {
            [Value::String(text), times] => {
                let times = times.as_u64().and_then(|times| usize::try_from(times).ok());
                Ok(json!(text.repeat(times.unwrap_or(0))))
            }
            _ => Err("it takes a text and a number".to_owned()),
        };
        DagDef::new("d")
            .user_defined_macro("region", json!({"name": "eu"}))
            .user_defined_function("repeat", repeat)
            .user_defined_filter("wrap", |value, args| {
                Ok(json!(format!("{0}{1}{0}", args[0].as_str().unwrap_or(""), value.as_str().unwrap_or(""))))
            })
            .define(|d| {
                d.add(say(text));
            })
    };
    let run = DagTest::new(dag("{{ repeat(region.name, 2) | wrap('|') }}")).run().await;
    assert_eq!(run.output::<Say>().as_deref(), Some("|eueu|"));
    let run = DagTest::new(dag("{{ repeat(1) }}")).run().await;
    assert!(run.tasks()[0].reason.as_deref().unwrap().contains("repeat(): it takes a text and a number"));
    let error = dag("{{ 'x' | wrapp }}").compile().unwrap_err().to_string();
    assert!(error.contains("no filter named `wrapp`"), "{error}");
}

/// Goal: a dag chooses what undefined names do, when it is built and when it runs.
#[tokio::test]
async fn a_dag_chooses_what_undefined_names_do() {
    let dag = |undefined| {
        DagDef::new("d").template_undefined(undefined).define(|d| {
            d.add(say("<{{ nobody }}{{ params.nothing }}>"));
        })
    };
    let error = dag(Undefined::Strict).compile().unwrap_err().to_string();
    assert!(error.contains("unknown variable `nobody`"), "{error}");
    let run = DagTest::new(dag(Undefined::Lenient)).run().await;
    assert_eq!(run.output::<Say>().as_deref(), Some("<>"));
}

/// Returns its value as rendered.
#[derive(Operator, Clone, Serialize, Deserialize)]
struct Give {
    #[template]
    value: Value,
}

impl Execute for Give {
    type Output = Value;

    async fn execute(&self, _: &TaskContext) -> Result<Value> {
        Ok(self.value.clone())
    }
}

fn give() -> Give {
    Give { value: json!({"n": "{{ params.n }}", "list": ["{{ [1, 'a'] }}", "{{ ds }}"], "same": 1}) }
}

#[dag(render_template_as_native_obj = true)]
fn native(d: &Dag) {
    d.add(give());
}

#[dag(template_undefined = Undefined::Lenient, template_searchpath = ["/nowhere", "/nowhere/else"])]
fn lenient(d: &Dag) {
    d.add(say("{{ nobody }}"));
}

/// Goal: values keep their types where a dag wants that, and are texts elsewhere. Method: the same fields both ways.
#[tokio::test]
async fn a_dag_keeps_the_types_of_rendered_values() {
    let plain = DagDef::new("plain").define(|d| {
        d.add(give());
    });
    for (dag, wanted) in [
        (native(), json!({"n": 3, "list": [[1, "a"], "2026-03-02"], "same": 1})),
        (plain, json!({"n": "3", "list": ["[1, 'a']", "2026-03-02"], "same": 1})),
    ] {
        let run = DagTest::new(dag).at("2026-03-02").conf(&json!({"n": 3})).run().await;
        assert_eq!(run.output::<Give>(), Some(wanted));
    }
}

/// Goal: templates include, import and extend others from the folders of their dag, and what those name is there too.
#[tokio::test]
async fn templates_include_others_from_the_folders_of_their_dag() {
    let [first, second] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let write = |folder: &tempfile::TempDir, name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).unwrap();
    };
    write(&second, "select.sql", "select * from {{ var.value.table }}{% include 'where.sql' %}");
    write(&first, "where.sql", " where day = '{{ ds }}'");
    write(&second, "where.sql", " the second folder does not win");
    write(&first, "macros.j2", "{% macro twice(x) %}{{ x }}{{ x }}{% endmacro %}");
    let dag = |text: &str| {
        DagDef::new("d").template_searchpath([first.path(), second.path()]).define(|d| {
            d.add(say(text));
        })
    };
    for (text, wanted) in [
        ("{% include 'select.sql' %}", "select * from orders where day = '2026-03-02'"),
        ("{% include params.file %}", "select * from orders where day = '2026-03-02'"),
        ("{% from 'macros.j2' import twice %}{{ twice('ab') }}", "abab"),
    ] {
        let test = DagTest::new(dag(text)).at("2026-03-02").variable("table", "orders");
        let run = test.conf(&json!({"file": "select.sql"})).run().await;
        assert_eq!(run.output::<Say>().as_deref(), Some(wanted), "{text}");
    }
    let run = DagTest::new(dag("{% include '../where.sql' %}")).run().await;
    assert_eq!(run.state_of::<Say>(), TaskState::Failed);
}

/// Goal: what a dag says of its templates is part of its version, and a dag that says nothing keeps the one it had.
#[test]
fn what_a_dag_says_of_its_templates_is_part_of_its_version() {
    let version = |change: fn(DagDef) -> DagDef| {
        let dag = DagDef::new("d").define(|d| {
            d.add(say("x"));
        });
        change(dag).compile().unwrap().fingerprint
    };
    let plain = version(|dag| dag);
    assert_eq!(
        plain,
        version(|dag| dag.render_template_as_native_obj(false).template_undefined(Undefined::Strict))
    );
    let changes: [fn(DagDef) -> DagDef; 6] = [
        |dag| dag.render_template_as_native_obj(true),
        |dag| dag.template_undefined(Undefined::Lenient),
        |dag| dag.template_searchpath(["/a"]),
        |dag| dag.user_defined_macro("x", 1),
        |dag| dag.user_defined_function("x", |_| Ok(Value::Null)),
        |dag| dag.user_defined_filter("x", |_, _| Ok(Value::Null)),
    ];
    let mut versions: Vec<String> = changes.iter().map(|change| version(*change)).collect();
    versions.push(plain);
    versions.sort();
    versions.dedup();
    assert_eq!(versions.len(), changes.len() + 1);
    assert_ne!(version(|dag| dag.user_defined_macro("x", 1)), version(|dag| dag.user_defined_macro("x", 2)));
    let said = lenient();
    assert_eq!(
        format!("{:?}", said.options().templates),
        "Lenient\npath /nowhere\npath /nowhere/else",
        "the attributes reach the definition"
    );
}
