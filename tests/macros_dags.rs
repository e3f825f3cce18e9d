//! `#[dag]`, `#[derive(Operator)]` and `#[derive(Branch)]` as a user meets them.

#![deny(unused)]

mod support;

use airflow::dag::{DagOptions, IntoSpec, Role, TaskOptions, When};
use airflow::discovery::discovered;
use airflow::operator::{Description, Operator};
use airflow::prelude::*;
use airflow::store::{MemoryStore, XComFilter};
use support::{context, context_with, run};

#[derive(Default, Serialize, Deserialize, JsonSchema)]
struct Nightly {
    table: String,
}

struct PgPool;

struct Rates;

async fn page(_: CallbackContext) {}

#[task]
async fn extract() -> Result<Vec<i64>> {
    Ok(vec![1, 2])
}

#[task]
async fn total(all: Vec<i64>) -> Result<i64> {
    Ok(all.iter().sum())
}

#[task]
async fn noop() {}

/// Sums up the sales.
#[dag(
    schedule = "0 6 * * *",
    tz = "Europe/Paris",
    start = "2026-01-01",
    end_date = DateTime::<Utc>::MAX_UTC,
    catchup,
    tags = ["sales", "daily"],
    params = Nightly,
    default_args = TaskOptions::new().retries(1),
    on_failure_callback = [support::callback, page],
    on_success = page,
    sla_miss_callback = page,
    dagrun_timeout = "2h",
    max_active_runs = 1,
    max_active_tasks = 2,
    owner = "finance",
    description = "Sales.",
    display_name = format!("{} {}", "Sales", 1),
    is_paused_upon_creation = true,
    fail_stop = true,
    max_consecutive_failed_dag_runs = 3
)]
fn sales(d: &Dag) {
    let orders = d.add(extract::call());
    let sum = d.add(total::call(orders));
    let end = d.add(noop::call());
    // None of these may warn about an unused result.
    sum >> end;
    if true {
        orders >> end;
    }
    d.group("more", |d| {
        let first = d.add(noop::call());
        first >> d.add(noop::call()) >> d.add(noop::call());
    });
    for _ in 0..2 {
        [sum.node(), orders.node()] >> d.add(noop::call());
    }
}

const FIXED: &str = "with-a.constant";

#[dag(id = FIXED)]
fn by_constant(d: &Dag) {
    d.add(noop::call()) >> d.add(noop::call())
}

/// One dag for each tenant.
#[dag(id = format!("nightly_{tenant}"), doc = "Own words.", params = Nightly { table: tenant.to_owned() })]
fn nightly(d: &Dag, tenant: &str, steps: usize) {
    for step in 0..steps {
        d.add(noop::call().id(format!("{tenant}_{step}")));
    }
}

#[test]
fn a_dag_function_returns_the_dag_with_its_options() {
    let dag = sales();
    assert_eq!(dag.id(), "sales");
    assert_eq!(format!("{dag:?}"), r#"DagDef { id: "sales", tasks: 8, .. }"#);
    let o: &DagOptions = dag.options();
    assert_eq!(o.timezone.as_deref(), Some("Europe/Paris"));
    assert_eq!(o.start_date, Some(When::Text("2026-01-01".into())));
    assert_eq!(o.end_date, Some(When::At(DateTime::<Utc>::MAX_UTC)));
    assert!(o.catchup && o.fail_fast && o.schedule.is_some());
    assert_eq!(o.tags, ["sales", "daily"]);
    assert_eq!(
        o.params.as_ref().map(|params| params.defaults.to_string()).as_deref(),
        Some(r#"{"table":""}"#)
    );
    assert_eq!(o.default_args.retries, Some(1));
    assert_eq!((o.callbacks.on_failure.len(), o.callbacks.on_success.len()), (2, 1));
    assert_eq!(o.on_sla_miss.len(), 1);
    assert_eq!(o.dagrun_timeout, Some(hours(2)));
    assert_eq!((o.max_active_runs, o.max_active_tasks), (Some(1), Some(2)));
    assert_eq!(o.max_consecutive_failed_dag_runs, 3);
    assert_eq!((o.owner.as_deref(), o.description.as_deref()), (Some("finance"), Some("Sales.")));
    assert_eq!((o.display_name.as_deref(), o.doc.as_deref()), (Some("Sales 1"), Some("Sums up the sales.")));
    assert_eq!(o.paused_at_creation, Some(true));
}

#[test]
fn a_dag_knows_the_line_of_its_function() {
    let line = include_str!("macros_dags.rs").lines().position(|line| line == "fn sales(d: &Dag) {");
    let place = format!("tests/macros_dags.rs:{}", line.unwrap() + 1);
    assert_eq!(sales().place().to_string(), place);
    let found = discovered();
    let found = found.iter().find(|dag| dag.id == "sales").unwrap();
    assert_eq!(format!("{}:{}", found.file, found.line), place);
}

#[test]
fn parameters_after_the_dag_stay_parameters() {
    let dag = nightly("acme", 2);
    assert_eq!(format!("{dag:?}"), r#"DagDef { id: "nightly_acme", tasks: 2, .. }"#);
    assert_eq!(dag.options().doc.as_deref(), Some("Own words."));
    let params = dag.options().params.as_ref().unwrap();
    assert_eq!(params.defaults.to_string(), r#"{"table":"acme"}"#);
}

#[test]
fn dags_without_further_parameters_are_found() {
    #[dag]
    fn inside_of_a_function(d: &Dag) {
        d.add(noop::call());
    }

    let _ = inside_of_a_function();
    let found: Vec<_> = discovered().iter().map(|dag| dag.id).collect();
    assert_eq!(found, ["inside_of_a_function", "loads", "sales", "with-a.constant"]);
    for dag in discovered() {
        assert_eq!((dag.make)().id(), dag.id);
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Receipt(String);

#[derive(Clone)]
struct ConnId(&'static str);

/// Posts a message.
#[derive(Operator)]
#[operator(color = "#4a154b", retries = 2, pool = "chat", needs(PgPool, Rates))]
struct SlackPost {
    #[template]
    channel: String,
    #[input]
    total: In<i64>,
    more: In<Option<String>>,
    conn: ConnId,
}

impl Execute for SlackPost {
    type Output = Receipt;

    async fn execute(&self, cx: &TaskContext) -> Result<Receipt> {
        let (total, more) = (self.total.get(cx)?, self.more.get(cx)?);
        Ok(Receipt(format!("{} {} {total} {more:?}", self.conn.0, self.channel)))
    }
}

fn post(total: impl IntoIn<i64>) -> SlackPost {
    SlackPost {
        channel: "#{{ ds }}".into(),
        total: total.into_in(),
        more: None::<String>.into_in(),
        conn: ConnId("slack"),
    }
}

#[test]
fn an_operator_struct_describes_its_fields() {
    let mut description = Description::default();
    post(5).describe(&mut description);
    let templates: Vec<_> =
        description.templates.iter().map(|field| (field.name, field.sources.clone())).collect();
    assert_eq!(templates, [("channel", vec!["#{{ ds }}".to_owned()])]);
    assert_eq!(description.resources.len(), 2);
    assert_eq!(description.inputs.len(), 0);

    let mut inputs = 0;
    let _ = DagDef::new("d").define(|d| {
        let mut description = Description::default();
        post(d.add(total::call(vec![1]))).describe(&mut description);
        inputs = description.inputs.len();
    });
    assert_eq!(inputs, 1);
}

#[test]
fn an_operator_struct_has_the_options_of_its_attribute() {
    assert_eq!((SlackPost::NAME, SlackPost::COLOR), ("SlackPost", Some("#4a154b")));
    assert_eq!(post(5).default_id(), "slack_post");
    let kind = post(5).into_spec().effective_options();
    assert_eq!(
        (kind.retries, kind.pool.as_deref(), kind.doc.as_deref()),
        (Some(2), Some("chat"), Some("Posts a message."))
    );
    let used = post(5).id("tell").retries(0).effective_options();
    assert_eq!((used.retries, used.pool.as_deref()), (Some(0), Some("chat")));
    assert_eq!(
        run(Execute::execute(&post(5), &context())).unwrap(),
        Receipt("slack #{{ ds }} 5 None".into())
    );
}

#[test]
fn an_operator_struct_may_be_a_unit_or_have_parameters() {
    #[derive(Operator)]
    #[operator(name = "Nothing at all", id = "nothing", setup, doc = "Idle.")]
    struct Nothing;

    impl Execute for Nothing {
        type Output = ();

        async fn execute(&self, _: &TaskContext) -> Result<()> {
            Err(TaskError::skip("nothing to do"))
        }
    }

    #[derive(Operator)]
    struct Keep<T, const N: usize>
    where
        T: Clone,
    {
        #[template]
        table: String,
        rows: In<Vec<T>>,
    }

    impl<T: Clone + Serialize + serde::de::DeserializeOwned + Send + Sync + 'static, const N: usize> Execute
        for Keep<T, N>
    {
        type Output = Vec<T>;

        async fn execute(&self, cx: &TaskContext) -> Result<Vec<T>> {
            assert_eq!(self.table, "t");
            let rows = self.rows.get(cx)?;
            Ok(rows.into_iter().take(N).collect())
        }
    }

    let cx = context_with(airflow::operator::Resources::default(), serde_json::Value::Null);
    assert_eq!(
        (Nothing::NAME, Nothing.default_id().as_str(), Nothing.role()),
        ("Nothing at all", "nothing", Role::Setup)
    );
    assert!(matches!(run(Operator::execute(&Nothing, &cx)), Err(TaskError::Skip(_))));
    let keep: Keep<i64, 2> = Keep { table: "t".into(), rows: vec![1, 2, 3].into_in() };
    assert_eq!(run(Operator::execute(&keep, &cx)).unwrap(), [1, 2]);
    let dag = DagDef::new("d").define(|d| {
        let kept = d.add(keep);
        d.add(total::call(kept));
        d.add(Nothing);
    });
    assert_eq!(format!("{dag:?}"), r#"DagDef { id: "d", tasks: 3, .. }"#);
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Branch)]
#[serde(rename_all = "lowercase")]
enum Load {
    Full,
    Incremental,
    Nothing,
}

#[task]
async fn choose() -> Result<Load> {
    Ok(Load::Full)
}

#[test]
fn a_branch_lists_its_variants_in_order() {
    assert_eq!(Load::variants(), [Load::Full, Load::Incremental, Load::Nothing]);
    assert_eq!(
        Load::variants().iter().map(Load::name).collect::<Vec<_>>(),
        ["Full", "Incremental", "Nothing"]
    );

    #[dag]
    fn loads(d: &Dag) {
        let full = d.add(noop::call().id("full"));
        let step = d.add(noop::call().id("incremental"));
        d.branch(d.add(choose::call()), |load| match load {
            Load::Full => full.into(),
            Load::Incremental => step.into(),
            Load::Nothing => Nodes::none(),
        });
    }

    assert_eq!(format!("{:?}", loads()), r#"DagDef { id: "loads", tasks: 3, .. }"#);
}

/// The pieces of `SlackPost` in a whole run: rendered, cloned and fetched fields.
#[tokio::test]
async fn a_derived_operator_runs_with_its_templates_rendered() {
    let dag = || {
        DagDef::new("posts").define(|d| {
            let total = d.add(total::call(vec![1, 2]));
            // The pool of the kind does not exist in this store.
            d.add(post(total).pool("default_pool"));
        })
    };
    let airflow = Airflow::builder().store(MemoryStore::new()).executor(LocalExecutor::new(1));
    let airflow = airflow.resource(PgPool).resource(Rates).dag(dag()).build().await.unwrap();
    let running = airflow.start();
    let run = airflow.trigger("posts").await.unwrap();
    let ended = airflow.wait_for(&run.dag_id, &run.run_id);
    let run = tokio::time::timeout(secs(5), ended).await.expect("the run ends").unwrap();
    let filter = XComFilter { run: run.pk, tasks: vec!["slack_post".into()], map_index: None, key: None };
    let receipt: Receipt = airflow.store().xcoms(&filter).await.unwrap().remove(0).value.decode().unwrap();
    let day = run.logical_date.format("%Y-%m-%d");
    assert_eq!(receipt, Receipt(format!("slack #{day} 3 None")));
    running.stop(secs(5)).await.unwrap();

    let missing = Airflow::builder().store(MemoryStore::new()).executor(LocalExecutor::new(1));
    let error = missing.resource(PgPool).dag(dag()).build().await.unwrap_err().to_string();
    assert!(error.contains("slack_post") && error.contains("Rates"), "{error}");
}
