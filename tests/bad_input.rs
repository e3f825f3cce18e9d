//! What users get wrong, and what they are told. Mistakes that the compiler finds stand in `compile-errors/ui`.

#[path = "bad_input/mistakes.rs"]
mod mistakes;

use airflow::operator::Resources;
use airflow::prelude::*;
use airflow::registry::Registry;
use airflow::state::TaskState;
use airflow::store::{MemoryStore, RunFilter, Store};

#[task]
async fn step() -> Result<i64> {
    Ok(1)
}

#[task]
async fn render(text: String) -> Result<String> {
    Ok(text)
}

#[task]
async fn large() -> Result<String> {
    Ok("x".repeat(2_000))
}

struct Database;

#[task]
async fn needs(db: &Database) -> Result<i64> {
    let _ = db;
    Ok(1)
}

fn errors(dags: &[DagDef]) -> String {
    match Registry::compile(dags, &Resources::default()) {
        Ok(_) => String::from("no error"),
        Err(errors) => errors.to_string(),
    }
}

/// The text without the lines of places, which move with every edit of a file.
fn without_lines(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(".rs:") {
        let (before, after) = rest.split_at(at + ".rs:".len());
        out += before;
        out += "N";
        rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    out + rest
}

#[test]
fn a_cycle_is_shown_as_a_path_with_its_place() {
    let dag = DagDef::new("round").define(|d| {
        let a = d.add(step::call().id("a"));
        let b = d.add(step::call().id("b"));
        let c = d.add(step::call().id("c"));
        d.order(a >> b >> c);
        d.order(c >> a);
    });
    assert_eq!(
        without_lines(&errors(&[dag])),
        "dag `round` (tests/bad_input.rs:N) has a mistake:\n  - the tasks wait for each other in a circle: \
         a >> b >> c >> a (tests/bad_input.rs:N)"
    );
}

#[test]
fn all_mistakes_of_a_dag_are_reported_at_once() {
    let dag = DagDef::new("bad dag")
        .schedule("61 * * * *")
        .timezone("Europe/Pari")
        .start_date("2026-13-01")
        .max_active_runs(0)
        .define(|d| {
            d.add(step::call().id("same"));
            d.add(step::call().id("same"));
            d.add(step::call().id("a b").pool_slots(0));
            d.add(needs::call());
            d.add(render::call(template("{{ loical_date }}")));
        });
    let text = errors(&[dag]);
    for part in [
        "dag id: the id `bad dag` contains ' '",
        "61",
        "`Europe/Pari` is no time zone; did you mean `Europe/Paris`?",
        "`start_date` of dag `bad dag`: `2026-13-01` is no moment",
        "`max_active_runs` of dag `bad dag`: 0 would never start a run",
        "the id `same` is used twice, first at tests/bad_input.rs:",
        "task id: the id `a b` contains ' '",
        "`pool_slots` of task `a b`: a task takes at least one slot",
        "task `needs` needs a `bad_input::Database` that nobody registered",
        "did you mean `logical_date`",
    ] {
        assert!(text.contains(part), "`{part}` is missing in:\n{text}");
    }
}

/// Goal: a variable of Airflow that no template can have here is refused with the reason, unless the template asks whether
/// it is there or the dag has one of its own.
#[test]
fn variables_that_no_template_can_have_are_refused_with_the_reason() {
    let dag = |text: &str| {
        let text = text.to_owned();
        DagDef::new("d").define(move |d| {
            d.add(render::call(template(text)));
        })
    };
    for (name, why) in [
        ("exception", "a callback finds the error in its `reason`"),
        ("reason", "a callback finds it in its `reason`"),
        ("outlet_events", "`cx.outlet_event(..)`"),
    ] {
        let text = errors(&[dag(&format!("{{{{ {name} }}}}"))]);
        assert!(text.contains(&format!("unknown variable `{name}`")) && text.contains(why), "{text}");
        assert_eq!(errors(&[dag(&format!("{{{{ {name} | default('') }}}}"))]), "no error");
        let own = dag(&format!("{{{{ {name} }}}}")).user_defined_macro(name, "mine");
        assert_eq!(errors(&[own]), "no error");
    }
}

fn dag_on(schedule: &str) -> DagDef {
    DagDef::new("d").schedule(schedule).define(|d| {
        d.add(step::call());
    })
}

/// Goal: no run gets a date that a database or a date of Airflow does not know, whatever its schedule. Method: every kind of
/// schedule, both ends, by a trigger, a backfill and a definition; the store stays empty.
#[tokio::test]
async fn dates_outside_of_the_calendar_are_refused_with_its_years() {
    let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
    let outside = [at("0000-12-31T23:59:59Z"), at("+10000-01-01T00:00:00Z"), DateTime::<Utc>::MAX_UTC];
    let events = move || airflow::timetable::Events::new([at("2026-01-01T00:00:00Z")]);
    let schedules: [Box<dyn Fn() -> DagDef>; 6] = [
        Box::new(|| dag_on("none")),
        Box::new(|| dag_on("@once")),
        Box::new(|| dag_on("@continuous").max_active_runs(1)),
        Box::new(|| dag_on("@daily")),
        Box::new(|| dag_on("none").schedule(days(3))),
        Box::new(move || dag_on("none").schedule(events())),
    ];
    for dag in &schedules {
        let store = MemoryStore::new();
        let airflow = Airflow::builder().store(store).dag(dag()).build().await.unwrap();
        for date in outside {
            let error = airflow.trigger("d").logical_date(date).await.unwrap_err().to_string();
            assert_eq!(
                error,
                format!("the logical date {date} is outside the years 1 to 9999: choose another one")
            );
        }
        assert!(airflow.store().runs(&RunFilter::default()).await.unwrap().is_empty());
        for inside in [at("0001-01-02T00:00:00Z"), at("9999-12-30T00:00:00Z")] {
            let run = airflow.trigger("d").logical_date(inside).await;
            // What lies beside the ends has no interval in some schedules, which say so themselves.
            assert!(run.is_ok() || run.unwrap_err().to_string().contains("outside the years 1 to 9999"));
        }
    }
    let airflow = Airflow::builder().store(MemoryStore::new()).dag(dag_on("@daily")).build().await.unwrap();
    let options = |from, to| airflow::app::BackfillOptions {
        from,
        to,
        conf: None,
        run_backwards: false,
        reprocess: airflow::app::Reprocess::None,
        dry_run: true,
        actor: "test".into(),
    };
    for (from, to) in [(outside[0], at("2026-01-01T00:00:00Z")), (at("2026-01-01T00:00:00Z"), outside[1])] {
        let error = airflow.backfill(&"d".into(), &options(from, to)).await.unwrap_err().to_string();
        assert!(error.contains("outside the years 1 to 9999: choose another one"), "{error}");
    }
    for wrong in [dag_on("@daily").start_date(outside[0]), dag_on("@once").start_date("0000-06-01")] {
        let text = errors(&[wrong]);
        assert!(
            text.contains("`start_date` of dag `d`") && text.contains("outside the years 1 to 9999"),
            "{text}"
        );
    }
}

#[test]
fn two_dags_of_one_id_are_named_with_both_places() {
    let one = DagDef::new("twin").define(|d| {
        d.add(step::call());
    });
    let other = DagDef::new("twin").define(|d| {
        d.add(step::call());
    });
    let text = without_lines(&errors(&[one, other]));
    assert_eq!(
        text,
        "two dags have the id `twin`: one at tests/bad_input.rs:N, one at tests/bad_input.rs:N; rename one of them"
    );
}

#[test]
fn a_handle_of_another_dag_is_refused() {
    let dag = DagDef::new("outer").define(|d| {
        let mine = d.add(step::call());
        let inner = DagDef::new("inner").define(|other| {
            let theirs = other.add(step::call());
            d.order(mine >> theirs);
        });
        assert_eq!(inner.id(), "inner");
    });
    let text = errors(&[dag]);
    assert!(text.contains("is used in dag `outer`; each dag has its own tasks"), "{text}");
}

#[tokio::test]
async fn a_pool_that_does_not_exist_is_named_with_its_task_and_the_cure() {
    let dag = || {
        DagDef::new("pooled").define(|d| {
            d.add(step::call().pool("warehose"));
        })
    };
    let store = MemoryStore::new();
    let error = Airflow::builder().store(store.clone()).dag(dag()).build().await.unwrap_err().to_string();
    assert!(
        error.contains("task `step` uses the pool `warehose`, which does not exist; create it"),
        "{error}"
    );
    assert_eq!(store.dags().await.unwrap(), [], "a dag that is refused is not stored");
    let built = Airflow::builder().store(store).pool("warehouse", 2).dag(dag()).build().await;
    assert!(built.unwrap_err().to_string().contains("did you mean `warehouse`?"));
    let built = Airflow::builder().store(MemoryStore::new()).pool("warehose", 2).dag(dag()).build().await;
    assert!(built.is_ok());
}

#[tokio::test]
async fn a_value_over_the_limit_fails_the_task_and_is_not_stored() {
    let dag = DagDef::new("big").define(|d| {
        d.add(large::call().retries(3));
    });
    let airflow = Airflow::builder()
        .store(MemoryStore::new())
        .executor(LocalExecutor::new(1))
        .xcom_limit(1_000)
        .dag(dag)
        .build()
        .await
        .unwrap();
    let running = airflow.start();
    let run = airflow.trigger("big").await.unwrap();
    airflow.wait_for(&run.dag_id, &run.run_id).await.unwrap();
    let ti = airflow.store().task_instances(run.pk).await.unwrap().remove(0);
    assert_eq!(
        (ti.state, ti.data.try_number),
        (TaskState::Failed, 1),
        "trying again would not make it smaller"
    );
    let reason = ti.data.reason.unwrap();
    assert!(reason.starts_with("the value `return_value` has 2002 bytes, 1000 are allowed"), "{reason}");
    let filter = airflow::store::XComFilter { run: run.pk, tasks: vec![], map_index: None, key: None };
    assert!(airflow.store().xcoms(&filter).await.unwrap().is_empty());
    running.stop(std::time::Duration::from_secs(1)).await.unwrap();
}

/// The size of the values that `exact` returns, in bytes of JSON.
struct Size(usize);

#[task]
async fn exact(size: &Size, more: isize) -> Result<String> {
    const QUOTES: usize = 2;
    Ok("x".repeat(size.0.saturating_add_signed(more) - QUOTES))
}

/// Goal: the default limit of a value is one MiB of JSON, to the byte. Method: a value of a byte less, of as much, and of a
/// byte more.
#[tokio::test]
async fn a_value_may_have_one_mebibyte_to_the_byte() {
    const MEBIBYTE: usize = 1024 * 1024;
    let dag = DagDef::new("d").define(|d| {
        d.add(exact::call(-1).id("below"));
        d.add(exact::call(0).id("at"));
        d.add(exact::call(1).id("above"));
    });
    let run = DagTest::new(dag).resource(Size(MEBIBYTE)).run().await;
    let states = ["below", "at", "above"].map(|id| run.state_of_id(id));
    assert_eq!(states, [TaskState::Success, TaskState::Success, TaskState::Failed], "{run}");
    let kept = ["below", "at"].map(|id| run.output_of::<String>(id).map(|text| text.len() + 2));
    assert_eq!(kept, [Some(MEBIBYTE - 1), Some(MEBIBYTE)]);
    let reason = run.reason_of_id("above").unwrap_or_default();
    assert!(
        reason.starts_with("the value `return_value` has 1048577 bytes, 1048576 are allowed"),
        "{reason}"
    );
}

#[derive(Serialize, JsonSchema, Default)]
struct Limits {
    #[schemars(range(min = 0, max = 10))]
    rows: u32,
}

#[tokio::test]
async fn a_conf_that_breaks_the_schema_makes_no_run() {
    let dag = DagDef::new("typed").params::<Limits>().define(|d| {
        d.add(step::call());
    });
    let airflow = Airflow::builder().store(MemoryStore::new()).dag(dag).build().await.unwrap();
    for (conf, part) in [
        (serde_json::json!({ "rows": 11 }), "`rows`: 11 is greater than the maximum of 10"),
        (serde_json::json!({ "rows": "many" }), "`rows`: \"many\" is not of type \"integer\""),
        (serde_json::json!([1]), "`conf` must be a JSON object, not `[1]`"),
    ] {
        let error = airflow.trigger("typed").conf(&conf).await.unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    let error = airflow.trigger("tyed").await.unwrap_err().to_string();
    assert_eq!(error, "there is no dag `tyed`; did you mean `typed`?");
    let error = airflow.trigger("typed").run_id("scheduled__mine").await.unwrap_err().to_string();
    assert!(error.contains("begins like the id of a run of another type"), "{error}");
    assert!(airflow.store().runs(&RunFilter::default()).await.unwrap().is_empty());
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_database_that_cannot_be_written_is_named() {
    let error =
        airflow::store::SqliteStore::open("/proc/no/such/folder/airflow.db").await.unwrap_err().to_string();
    assert!(error.starts_with("cannot open the database /proc/no/such/folder/airflow.db: "), "{error}");
}

/// Goal: a program that is older than its database refuses it and changes nothing in it. Method: a database with a dag and
/// a run, whose schema says that it is of a later version; the same bytes before and after.
#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    use airflow::store::SqliteStore;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("airflow.db");
    let place = path.to_str().expect("a path that is text");
    let dag = |retries| {
        DagDef::new("d").define(|d| {
            d.add(step::call().retries(retries));
        })
    };
    let build = async |retries| {
        let store = SqliteStore::open(place).await.expect("it opens");
        Airflow::builder().store(store).dag(dag(retries)).build().await
    };
    let airflow = build(0).await.expect("it is new");
    airflow.trigger("d").await.expect("a run");
    drop(airflow);
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let pool = sqlx::SqlitePool::connect_with(options).await.expect("it connects");
    let run = async |sql: &'static str| sqlx::query(sql).execute(&pool).await.expect(sql);
    run("INSERT INTO airflow_schema (version, at, serves) VALUES (1000, 0, 1000)").await;
    run("PRAGMA wal_checkpoint(TRUNCATE)").await;
    let before = std::fs::read(&path).expect("the file");
    let error = build(3).await.expect_err("it is too new").to_string();
    assert!(error.contains("the database has schema version 1000, this version of airflow knows"), "{error}");
    run("PRAGMA wal_checkpoint(TRUNCATE)").await;
    assert!(std::fs::read(&path).expect("the file") == before, "nothing was written");
    pool.close().await;
}

#[tokio::test]
async fn a_lease_shorter_than_three_beats_is_refused() {
    let built = Airflow::builder()
        .store(MemoryStore::new())
        .scheduler(|config| config.lease = config.beat * 2)
        .build()
        .await;
    assert!(built.unwrap_err().to_string().contains("is shorter than three beats"));
}
