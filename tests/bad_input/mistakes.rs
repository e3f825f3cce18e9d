//! Every mistake that a definition can have, and what is said of it.

use std::collections::{BTreeMap, BTreeSet};

use airflow::app::BuildError;
use airflow::dag::{DeadlineAlert, ProblemKind};
use airflow::operator::SensorMode;
use airflow::registry::RegistryErrors;
use airflow::trigger_rule::TriggerRule;
use serde::ser::Error as _;
use serde_json::json;

use super::*;

#[task]
async fn double(n: i64) -> Result<i64> {
    Ok(n * 2)
}

#[task]
async fn choose_id() -> Result<Vec<String>> {
    Ok(Vec::new())
}

#[task]
async fn is_open() -> Result<bool> {
    Ok(true)
}

#[sensor]
async fn there() -> Result<bool> {
    Ok(true)
}

/// Two ways that look the same from outside.
#[derive(Deserialize, Branch)]
enum Twins {
    Left,
    Right,
}

impl Serialize for Twins {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.serialize_str("same")
    }
}

#[task]
async fn twins() -> Result<Twins> {
    Ok(Twins::Left)
}

/// What JSON has no words for.
#[derive(Clone)]
struct Unwritable;

impl Serialize for Unwritable {
    fn serialize<S: serde::Serializer>(&self, _: S) -> std::result::Result<S::Ok, S::Error> {
        Err(S::Error::custom("it has no words"))
    }
}

impl<'de> Deserialize<'de> for Unwritable {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> std::result::Result<Self, D::Error> {
        Ok(Self)
    }
}

#[derive(JsonSchema, Default)]
struct UnwritableParams {}

impl Serialize for UnwritableParams {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        Unwritable.serialize(to)
    }
}

struct Every(u64);

impl AssetWatcher for Every {
    type Event = u64;
    type Cursor = u64;

    async fn next(&self, _: Option<u64>, _: &airflow::asset::WatchContext) -> Result<Seen<u64, u64>> {
        Ok(Seen::new(self.0, self.0))
    }
}

struct Other;

impl AssetWatcher for Other {
    type Event = u64;
    type Cursor = u64;

    async fn next(&self, _: Option<u64>, _: &airflow::asset::WatchContext) -> Result<Seen<u64, u64>> {
        std::future::pending().await
    }
}

/// A dag of one task, with these options.
fn with(options: impl FnOnce(DagDef) -> DagDef) -> Vec<DagDef> {
    vec![options(DagDef::new("d")).define(|d| {
        d.add(step::call().id("a"));
    })]
}

/// A dag of these tasks.
fn of(define: impl FnOnce(&Dag)) -> Vec<DagDef> {
    vec![DagDef::new("d").define(define)]
}

/// A dag of one task `a`, with these options.
fn task(options: impl FnOnce(&mut TaskOptions)) -> Vec<DagDef> {
    of(|d| {
        d.add(there::call().id("a").options(options));
    })
}

/// What is wrong with dags, each mistake without the place of the definition at its end.
async fn problems(dags: Vec<DagDef>) -> Vec<ProblemKind> {
    let store = MemoryStore::new();
    let built = Airflow::builder().store(store.clone()).dags(dags).build().await;
    assert_eq!(store.dags().await.expect("memory answers"), [], "what is refused is not stored");
    match built {
        Ok(_) => Vec::new(),
        Err(BuildError::Dags(RegistryErrors { dags, .. })) => {
            dags.into_iter().flat_map(|dag| dag.problems).map(|problem| problem.kind).collect()
        }
        Err(other) => panic!("not the fault of a dag: {other}"),
    }
}

/// The name of the kind of a mistake.
fn name_of(kind: &ProblemKind) -> String {
    let debug = format!("{kind:?}");
    debug.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
}

/// The names of all kinds of mistakes, as the source has them.
fn all_kinds() -> BTreeSet<String> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/airflow-core/src/dag/problem.rs");
    let source = std::fs::read_to_string(source).expect("the source is there");
    let body = source.split("pub enum ProblemKind {").nth(1).expect("the enum is there");
    let variant = |line: &str| {
        let name = line.strip_prefix("    ").filter(|rest| rest.starts_with(char::is_uppercase))?;
        Some(name.split(|c: char| !c.is_alphanumeric()).next()?.to_owned())
    };
    body.lines().filter_map(variant).collect()
}

/// Dags with one mistake each, and what is said of it.
type Rows = Vec<(Vec<DagDef>, &'static str)>;

fn wrong_dags() -> Rows {
    vec![
        (with(|d| d.schedule("61 * * * *")), "schedule: cron `61 * * * *`: minute 61 is not in 0-59"),
        (
            with(|d| d.timezone("Mars/Olympus_Mons")),
            "timezone: `Mars/Olympus_Mons` is no time zone; write a name such as `Europe/Paris` or `UTC`",
        ),
        (
            with(|d| d.end_date("yesterday")),
            "`end_date` of dag `d`: `yesterday` is no moment in UTC; write `2026-01-31`, `2026-01-31T06:00` or \
             `2026-01-31T06:00+01:00`",
        ),
        (
            with(|d| d.start_date("2026-02-01").end_date("2026-01-31")),
            "`end_date` of dag `d`: it lies before the start date",
        ),
        (
            with(|d| d.schedule("@daily").catchup(true)),
            "`catchup` of dag `d`: it needs a start date to begin at",
        ),
        (
            with(|d| d.max_active_runs(0)),
            "`max_active_runs` of dag `d`: 0 would never start a run; write at least 1",
        ),
        (
            with(|d| {
                d.schedule(airflow::timetable::Schedule::continuous())
                    .start_date("2026-01-01")
                    .max_active_runs(2)
            }),
            "`max_active_runs` of dag `d`: the schedule `@continuous` allows 1 at most",
        ),
        (
            with(|d| d.max_active_tasks(0)),
            "`max_active_tasks` of dag `d`: 0 would never start a task; write at least 1",
        ),
        (
            with(|d| d.dagrun_timeout(secs(0))),
            "`dagrun_timeout` of dag `d`: zero would fail every run at once; leave it out for no limit",
        ),
        (with(|d| d.tags(["sales", ""])), "`tags` of dag `d`: the tag `` must have 1 to 100 characters"),
    ]
}

fn wrong_params_and_ids() -> Rows {
    vec![
        (
            with(DagDef::params::<UnwritableParams>),
            "params: the defaults cannot be written as JSON: it has no words",
        ),
        (
            with(|d| d.params_schema(json!({ "type": "colour" }), json!({}))),
            "params: the schema is no JSON Schema: \"colour\" is not valid under any of the schemas listed in the \
             'anyOf' keyword",
        ),
        (
            with(|d| {
                let schema = json!({ "type": "object", "required": ["rows"] });
                d.schedule("@daily").params_schema(schema, json!({}))
            }),
            "params: the defaults do not fit: \"rows\" is a required property",
        ),
        (
            with(|d| d.deadline(DeadlineAlert::after_queued(mins(5)))),
            "`deadline` of dag `d`: `deadline_1` tells nobody; add `.call(..)`",
        ),
        (
            vec![DagDef::new("a/b")],
            "dag id: the id `a/b` contains '/'; allowed are letters, digits, `_`, `-` and `.`",
        ),
    ]
}

fn wrong_options() -> Rows {
    vec![
        (
            task(|o| o.timeout = Some(secs(0))),
            "`timeout` of task `a`: zero would fail every attempt at once; leave it out for no limit",
        ),
        (
            task(|o| o.execution_timeout = Some(secs(0))),
            "`execution_timeout` of task `a`: zero would fail every attempt at once; leave it out for no limit",
        ),
        (
            task(|o| o.poke_interval = Some(secs(0))),
            "`poke_interval` of task `a`: without a pause the sensor would poke all the time; write at least `1s`",
        ),
        (
            task(|o| o.max_wait = Some(secs(0))),
            "`max_wait` of task `a`: zero would leave no pause between two pokes; leave it out for no limit",
        ),
        (
            task(|o| (o.soft_fail, o.never_fail) = (Some(true), Some(true))),
            "`soft_fail` of task `a`: `soft_fail` and `never_fail` exclude each other; choose one",
        ),
        (
            task(|o| o.retry_exponential_backoff = Some(-1.0)),
            "`retry_exponential_backoff` of task `a`: the factor must be a number of at least 0",
        ),
        (
            task(|o| o.retry_exponential_backoff = Some(f64::NAN)),
            "`retry_exponential_backoff` of task `a`: the factor must be a number of at least 0",
        ),
        (
            task(|o| o.max_active_tis_per_dag = Some(0)),
            "`max_active_tis_per_dag` of task `a`: 0 would never start the task; write at least 1",
        ),
        (
            task(|o| o.max_active_tis_per_dagrun = Some(0)),
            "`max_active_tis_per_dagrun` of task `a`: 0 would never start the task; write at least 1",
        ),
        (task(|o| o.pool_slots = Some(0)), "`pool_slots` of task `a`: a task takes at least one slot"),
        (task(|o| o.pool = Some(String::new())), "`pool` of task `a`: the name is empty"),
        (task(|o| o.queue = Some(String::new())), "`queue` of task `a`: the name is empty"),
        (
            task(|o| o.sla = Some(secs(0))),
            "`sla` of task `a`: zero is over before the run begins; leave it out for none",
        ),
    ]
}

fn wrong_parts() -> Rows {
    vec![
        (
            of(|d| {
                d.add(there::call().id("a").outlets(Asset::new("airflow://orders")));
            }),
            "task `a`: asset `airflow://orders`: the scheme `airflow` is reserved; use another one",
        ),
        (
            of(|d| {
                d.add(render::call(template("{{ ds | upcase }}")).id("a"));
            }),
            "task `a`: template `{{ ds | upcase }}`, line 1: no filter named `upcase`",
        ),
        (
            of(|d| {
                d.add(step::call().id("a").pool("warehose"));
            }),
            "task `a` uses the pool `warehose`, which does not exist; create it with `.pool(..)` on the builder or \
             `pools set`",
        ),
        (
            of(|d| {
                d.add(needs::call().id("a"));
            }),
            "task `a` needs a `bad_input::Database` that nobody registered; add `.resource(..)` to the builder",
        ),
    ]
}

fn wrong_order() -> Rows {
    vec![
        (
            of(|d| {
                d.add(step::call().id("a"));
                d.add(step::call().id("a"));
            }),
            "the id `a` is used twice, first at tests/bad_input/mistakes.rs:N; give one of them another `.id(..)`",
        ),
        (
            of(|d| {
                let (a, b) = (d.add(step::call().id("a")), d.add(step::call().id("b")));
                d.order(a >> b >> a);
            }),
            "the tasks wait for each other in a circle: a >> b >> a",
        ),
        (
            of(|d| {
                let mine = d.add(step::call().id("a"));
                let _ = DagDef::new("other").define(|other| d.order(mine >> other.add(step::call())));
            }),
            "a handle of another dag is used in dag `d`; each dag has its own tasks",
        ),
        (
            of(|d| {
                let up = d.add(step::call().id("up").setup());
                d.order(up >> d.add(step::call().id("a").when(TriggerRule::AllDone)));
            }),
            "task `a` follows the setup `up` and must use the trigger rule `all_success`, not `all_done`",
        ),
        (
            vec![DagDef::new("d").fail_fast(true).define(|d| {
                d.add(step::call().id("a").when(TriggerRule::OneFailed));
            })],
            "task `a` uses the trigger rule `one_failed`, but a dag with `fail_fast` allows only `all_success`",
        ),
        (
            of(|d| {
                let three = |id: &str| (1..=3).map(|n| d.add(step::call().id(format!("{id}{n}")))).collect();
                let (left, mut right): (Vec<_>, Vec<_>) = (three("l"), three("r"));
                right.pop();
                d.chain([left, right]);
            }),
            "`chain` cannot join lists of 3 and 2 tasks one to one; use `cross_downstream`",
        ),
        (
            of(|d| d.chain_linear([d.add(step::call())])),
            "`chain_linear` needs at least two arguments that have tasks",
        ),
    ]
}

fn wrong_branches() -> Rows {
    vec![
        (
            of(|d| {
                let way = d.add(twins::call().id("way"));
                d.branch(way, |_| Nodes::none());
            }),
            "branch on task `way`: the variant `Right` is written as `\"same\"`, like another one",
        ),
        (
            of(|d| {
                let way = d.add(choose_id::call().id("way"));
                d.branch_by_id(way);
                d.branch_by_id(way);
            }),
            "branch on task `way`: it branches twice",
        ),
        (
            of(|d| {
                let open = d.short_circuit(d.add(is_open::call().id("open")));
                d.skip_unless(open);
            }),
            "branch on task `open`: it branches twice",
        ),
    ]
}

fn wrong_mappings() -> Rows {
    vec![
        (
            of(|d| {
                d.map_group("each", vec![1], |d, _| {
                    d.map(vec![1, 2], |n| double::call(n).id("inner"));
                });
            }),
            "`each.inner` is mapped inside the mapped group `each`; a mapping inside a mapping is not possible",
        ),
        (
            of(|d| {
                d.map_group("outer", vec![1], |d, _| {
                    d.map_group("inner", vec![1], |d, n| {
                        d.add(double::call(n).id("a"));
                    });
                });
            }),
            "`outer.inner` is mapped inside the mapped group `outer`; a mapping inside a mapping is not possible",
        ),
        (
            of(|d| {
                let mut element = None;
                d.map(vec![1], |n| {
                    element = Some(n.clone());
                    double::call(n).id("inside")
                });
                d.add(double::call(element.expect("it ran")).id("a"));
            }),
            "task `a` uses an element of `inside` outside of its mapping; use what `d.map` or `d.map_group` returns",
        ),
        (
            of(|d| {
                let mut one = None;
                d.map_group("each", vec![1], |d, n| {
                    one = Some(d.add(double::call(n).id("inside")));
                });
                d.add(double::call(one.expect("it ran")).id("a"));
            }),
            "task `a` uses the result of `each.inside` outside of its mapping; use what `d.map` or `d.map_group` returns",
        ),
        (
            of(|d| {
                d.map(vec![Unwritable], |_| step::call());
            }),
            "a constant cannot be written as JSON: it has no words",
        ),
    ]
}

fn wrong_assets() -> Rows {
    let uses = |id: &str, asset: Asset| {
        DagDef::new(id).define(|d| {
            d.add(step::call().id("a").outlets(asset));
        })
    };
    vec![
        (
            vec![
                uses("one", Asset::new("s3://lake/orders").named("orders")),
                uses("two", Asset::new("s3://lake/orders").named("sales")),
            ],
            "the asset `sales` at `s3://lake/orders` is also called `orders` at `s3://lake/orders` \
             (tests/bad_input/mistakes.rs:N); give an asset one name and one URI everywhere",
        ),
        (
            vec![
                uses("one", Asset::new("s3://lake/orders").watcher("w", Every(1))),
                uses("two", Asset::new("s3://lake/orders").watcher("w", Other)),
            ],
            "the watcher `w` of the asset `s3://lake/orders` is a `bad_input::mistakes::Other`, but a \
             `bad_input::mistakes::Every` elsewhere (tests/bad_input/mistakes.rs:N); give one of them another name",
        ),
    ]
}

/// Goal: each mistake in a definition is found before anything runs, named with its task, its value and the cure, and
/// leaves no trace in the database; and nobody adds a kind of mistake without a row here. Method: a table of wrong
/// definitions with what is said of each, the only thing that is wrong with it; the kinds are read from the source.
#[tokio::test]
async fn every_mistake_is_named_with_its_cure() {
    let mut table = wrong_dags();
    table.extend(wrong_params_and_ids());
    table.extend(wrong_options());
    table.extend(wrong_parts());
    table.extend(wrong_order());
    table.extend(wrong_branches());
    table.extend(wrong_mappings());
    table.extend(wrong_assets());
    let (mut wrong, mut seen) = (Vec::new(), BTreeSet::new());
    for (dags, text) in table {
        let found = problems(dags).await;
        seen.extend(found.iter().map(name_of));
        let said: Vec<String> = found.iter().map(|kind| without_lines(&kind.to_string())).collect();
        if said != [text] {
            wrong.push(format!("expected {text}\n     got {}", said.join("\n         ")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert_eq!(seen, all_kinds(), "each kind of mistake has a row, and each row has a kind");
}

/// Goal: a tag has at most a hundred characters, whatever they are. Method: a hundred, and one more.
#[tokio::test]
async fn a_tag_of_more_than_a_hundred_characters_is_too_long() {
    let tagged = |length: usize| with(|d| d.tags(["\u{e4}".repeat(length)]));
    assert_eq!(errors(&tagged(100)), "no error");
    let found: Vec<String> = problems(tagged(101)).await.iter().map(ToString::to_string).collect();
    let tag = "\u{e4}".repeat(101);
    assert_eq!(found, [format!("`tags` of dag `d`: the tag `{tag}` must have 1 to 100 characters")]);
}

/// Goal: the rows above stand for options that are looked at wherever they come from. Method: the same mistake in the
/// options of a group, of the dag and of the application's defaults; a mode that does not poke.
#[tokio::test]
async fn a_wrong_option_is_found_wherever_it_is_written() {
    let pause = TaskOptions::new().poke_interval(secs(0)).mode(SensorMode::Deferred);
    let of_dag = DagDef::new("d").default_args(pause.clone()).define(|d| {
        d.add(there::call().id("a"));
    });
    let of_group = DagDef::new("d").define(|d| {
        d.add_group(TaskGroup::new("g").default_args(pause), |d| {
            d.add(there::call().id("a"));
        });
    });
    let said = "a`: without a pause the sensor would poke all the time; write at least `1s`";
    for (dag, id) in [(of_dag, ""), (of_group, "g.")] {
        let found: Vec<String> = problems(vec![dag]).await.iter().map(ToString::to_string).collect();
        assert_eq!(found, [format!("`poke_interval` of task `{id}{said}")]);
    }
}

#[dag(schedule = "61 * * * *", timezone = "Europe/Pari", start_date = "2026-13-01", end_date = "soon")]
fn by_attribute(d: &Dag) {
    d.add(step::call());
}

#[dag(schedule = "@dayly", tz = "Europe/Paris", start = "2026-03-29T02:30")]
fn by_short_attribute(d: &Dag) {
    d.add(step::call());
}

/// Goal: what is written in an attribute is checked as what is written in code, with the place of the attribute's
/// function. Method: cron, preset, zone and dates that do not exist, and an hour that the zone skips.
#[tokio::test]
async fn mistakes_in_an_attribute_are_found_as_those_in_code() {
    let said: BTreeMap<&str, Vec<String>> = [("long", by_attribute()), ("short", by_short_attribute())]
        .map(|(name, dag)| (name, errors(&[dag]).lines().map(without_lines).collect()))
        .into();
    assert_eq!(
        said["long"],
        [
            "dag `by_attribute` (tests/bad_input/mistakes.rs:N) has 4 mistakes:",
            "  - timezone: `Europe/Pari` is no time zone; did you mean `Europe/Paris`? (tests/bad_input/mistakes.rs:N)",
            "  - schedule: cron `61 * * * *`: minute 61 is not in 0-59 (tests/bad_input/mistakes.rs:N)",
            "  - `start_date` of dag `by_attribute`: `2026-13-01` is no moment in UTC; write `2026-01-31`, \
             `2026-01-31T06:00` or `2026-01-31T06:00+01:00` (tests/bad_input/mistakes.rs:N)",
            "  - `end_date` of dag `by_attribute`: `soon` is no moment in UTC; write `2026-01-31`, `2026-01-31T06:00` or \
             `2026-01-31T06:00+01:00` (tests/bad_input/mistakes.rs:N)",
        ]
    );
    assert_eq!(
        said["short"],
        [
            "dag `by_short_attribute` (tests/bad_input/mistakes.rs:N) has 2 mistakes:",
            "  - schedule: cron `@dayly`: is no preset; did you mean `@daily`? (tests/bad_input/mistakes.rs:N)",
            "  - `start_date` of dag `by_short_attribute`: `2026-03-29T02:30` is no moment in Europe/Paris; write \
             `2026-01-31`, `2026-01-31T06:00` or `2026-01-31T06:00+01:00` (tests/bad_input/mistakes.rs:N)",
        ]
    );
}
