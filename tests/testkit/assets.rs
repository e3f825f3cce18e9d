//! Dags that run when assets are new.

use airflow::app::Mark;
use airflow::asset::AssetEvent;
use airflow::prelude::*;
use serde_json::{Value, json};

const ORDERS: &str = "s3://lake/orders";
const RATES: &str = "s3://lake/rates";

/// Says how many rows it has made.
#[task(outlets = ORDERS)]
async fn load(cx: &TaskContext) -> Result<()> {
    cx.outlet_event(ORDERS).set("rows", &97)
}

/// What it knows of the events that made its run.
#[task]
async fn look(cx: &TaskContext) -> Result<Value> {
    let events = cx.triggering_asset_events().await?;
    let about = |event: &AssetEvent| {
        let source = event.source.as_ref();
        json!([source.map(|source| source.dag_id.to_string()), event.extra])
    };
    let all = events.iter().map(|(uri, events)| (uri.clone(), events.iter().map(about).collect::<Value>()));
    Ok(all.collect())
}

fn producer() -> DagDef {
    DagDef::new("producer").schedule("@daily").start_date("2026-03-01").define(|d| {
        d.add(load::call());
    })
}

fn consumer(schedule: impl Into<Schedule>) -> DagDef {
    DagDef::new("consumer").schedule(schedule).define(|d| {
        d.add(look::call());
    })
}

/// Goal: a success makes a run of the dags that wait for its asset, at once. Method: no time passes between the two.
#[tokio::test]
async fn a_success_runs_the_dags_that_wait_for_its_asset() {
    let sim = Sim::new([producer(), consumer(Asset::new(ORDERS))]).start("2026-03-02T00:00Z").await;
    sim.settle().await;
    let [made] =
        sim.runs("consumer").iter().map(|run| run.row().clone()).collect::<Vec<_>>().try_into().unwrap();
    assert_eq!(made.state, RunState::Success);
    assert_eq!(made.triggered_by, "asset");
    assert_eq!(made.logical_date, sim.now());
    assert!(
        made.run_id.as_str().starts_with("asset_triggered__2026-03-02T00:00:00+00:00_"),
        "{}",
        made.run_id
    );
    let source = sim.run("producer", "scheduled__2026-03-01T00:00:00+00:00");
    assert_eq!(made.data_interval, source.run().data_interval, "it is about what its sources are about");
    let seen: Value = sim.run("consumer", made.run_id.as_str()).output_of("look").unwrap();
    assert_eq!(seen, json!({ ORDERS: [["producer", { "rows": 97 }]] }));
    let event = &source.asset_events()[0];
    assert_eq!((event.uri.as_str(), &event.extra), (ORDERS, &json!({ "rows": 97 })));

    sim.advance(days(3)).await;
    assert_eq!(sim.runs("consumer").len(), 4, "a run for each success");
    sim.assert_idle();
}

/// Goal: neither a failure nor a skip nor a mark makes anything new; a retry that succeeds does, once.
#[tokio::test]
async fn only_a_success_of_the_code_is_an_event() {
    let retried = producer().default_args(TaskOptions::new().retries(1).retry_delay(mins(1)));
    let sim = Sim::new([retried, consumer([ORDERS])]).start("2026-03-02T00:00Z").await;
    sim.fail_next_n::<load>(3, "no");
    sim.fail_next::<load>(TaskError::skip("nothing to do"));
    sim.advance(mins(5)).await;
    let first = "scheduled__2026-03-01T00:00:00+00:00";
    assert_eq!(sim.run("producer", first).state(), RunState::Failed);
    sim.mark("producer", first, &["load"], Mark::Success).await;
    assert_eq!(sim.runs("consumer").len(), 0);
    sim.clear("producer", first, &[]).await;
    sim.advance(mins(5)).await;
    assert_eq!(sim.run("producer", first).state_of_id("load"), TaskState::Skipped);
    assert_eq!(sim.runs("consumer").len(), 0);
    sim.advance_to("2026-03-03T00:05Z").await;
    assert_eq!(sim.runs("consumer").len(), 1);
}

#[tokio::test]
async fn a_condition_waits_for_all_it_names() {
    let (orders, rates, extra) = (Asset::new(ORDERS), Asset::new(RATES), Asset::new("x://other"));
    let sim = Sim::new([consumer(&orders & (&rates | &extra))]).start("2026-03-02T00:00Z").await;
    sim.asset_event(ORDERS).await;
    sim.asset_event(ORDERS).await;
    assert_eq!(sim.runs("consumer").len(), 0);
    sim.asset_event("S3://lake/rates/").await;
    assert_eq!(sim.runs("consumer").len(), 1, "all events so far are of one run");
    sim.asset_event(RATES).await;
    assert_eq!(sim.runs("consumer").len(), 1);
    sim.asset_event(ORDERS).await;
    let runs = sim.runs("consumer");
    assert_eq!(runs.len(), 2, "of one moment, and yet two");
    let seen: Value = sim.run("consumer", runs.ids()[0].as_str()).output_of("look").unwrap();
    let nobody = json!([null, {}]);
    let both =
        [json!({ ORDERS: [nobody, nobody], RATES: [nobody] }), json!({ ORDERS: [nobody], RATES: [nobody] })];
    assert!(both.contains(&seen), "{seen}");
    sim.assert_idle();
}

#[tokio::test]
async fn a_timetable_beside_assets_makes_runs_of_its_own() {
    let schedule = AssetOrTimeSchedule::new("0 6 * * *", ORDERS);
    let dag = consumer(schedule).start_date("2026-03-01");
    let sim = Sim::new([dag]).start("2026-03-02T12:00Z").await;
    sim.settle().await;
    sim.asset_event(ORDERS).await;
    sim.advance(days(1)).await;
    let ids = sim.runs("consumer").ids();
    let kinds: Vec<&str> = ids.iter().map(|id| id.split("__").next().unwrap()).collect();
    assert_eq!(kinds, ["scheduled", "scheduled", "asset_triggered"], "by logical date: {ids:?}");
}

#[tokio::test]
async fn a_paused_dag_gets_no_run_and_later_what_came_meanwhile() {
    let sim = Sim::new([consumer([ORDERS])]).start("2026-03-02T00:00Z").await;
    sim.pause("consumer").await;
    sim.asset_event(ORDERS).await;
    sim.unpause("consumer").await;
    sim.advance(hours(1)).await;
    assert_eq!(sim.runs("consumer").len(), 0, "what comes while it is paused makes no run");
    sim.asset_event(ORDERS).await;
    let ids = sim.runs("consumer").ids();
    let seen: Value = sim.run("consumer", &ids[0]).output_of("look").unwrap();
    assert_eq!(seen[ORDERS].as_array().unwrap().len(), 2, "but is part of the next");
}

/// Goal: what waits while a dag may have no further run makes one run later.
#[tokio::test]
async fn runs_by_assets_keep_the_limit_of_the_dag() {
    let dag = consumer([ORDERS]).max_active_runs(1);
    let sim = Sim::new([dag]).takes::<look>(hours(1)).start("2026-03-02T00:00Z").await;
    for _ in 0..4 {
        sim.asset_event(ORDERS).await;
    }
    assert_eq!(sim.runs("consumer").len(), 1);
    sim.advance(hours(1)).await;
    assert_eq!(sim.runs("consumer").len(), 2, "three events, one run");
    sim.advance(hours(9)).await;
    assert_eq!(sim.runs("consumer").len(), 2);
}

/// Goal: no event is lost or counted twice if the process dies. Method: kill it before and after each step.
#[tokio::test]
async fn a_process_that_dies_loses_no_event() {
    let sim =
        Sim::new([producer(), consumer([ORDERS])]).takes::<load>(hours(1)).start("2026-03-02T00:00Z").await;
    sim.advance(mins(30)).await;
    sim.kill().await;
    sim.advance(mins(90)).await;
    sim.kill().await;
    sim.advance(mins(1)).await;
    assert_eq!(sim.runs("producer").states(), [RunState::Success]);
    assert_eq!(sim.runs("consumer").states(), [RunState::Success]);
    sim.airflow().asset_event(ORDERS).await.unwrap();
    sim.kill().await;
    sim.advance(mins(1)).await;
    assert_eq!(sim.runs("consumer").states(), [RunState::Success; 2]);
    sim.assert_idle();
}

/// Makes two assets that it does not know before.
#[task(outlets = AssetAlias::new("exports"))]
async fn export(cx: &TaskContext) -> Result<()> {
    cx.alias_event("exports").add_with("s3://lake/exports/1", &json!({ "n": 1 }))?;
    cx.alias_event("exports").add("s3://lake/exports/2")?;
    cx.alias_event("exports").add("s3://lake/exports/2")
}

#[tokio::test]
async fn an_alias_stands_for_what_a_task_has_made() {
    let maker = DagDef::new("maker").define(|d| {
        d.add(export::call());
    });
    let of_one = DagDef::new("of_one").schedule(Asset::new("s3://lake/exports/2")).define(|d| {
        d.add(look::call());
    });
    let sim =
        Sim::new([maker, of_one, consumer(AssetAlias::new("exports"))]).start("2026-03-02T00:00Z").await;
    sim.trigger("maker").await.unwrap();
    sim.settle().await;
    let seen = |dag: &str| -> Value {
        let ids = sim.runs(dag).ids();
        assert_eq!(ids.len(), 1, "{dag}");
        sim.run(dag, &ids[0]).output_of("look").unwrap()
    };
    let two = json!([["maker", {}]]);
    assert_eq!(
        seen("consumer"),
        json!({ "s3://lake/exports/1": [["maker", { "n": 1 }]], "s3://lake/exports/2": two })
    );
    assert_eq!(seen("of_one"), json!({ "s3://lake/exports/2": two }));
}

#[tokio::test]
async fn an_asset_is_made_on_request() {
    let sim = Sim::new([producer().schedule(Schedule::manual()), consumer([ORDERS])])
        .start("2026-03-02T00:00Z")
        .await;
    let run = sim.airflow().materialize(ORDERS, "ada").await.unwrap();
    assert_eq!((run.dag_id.as_str(), run.run_type.as_str()), ("producer", "asset_materialization"));
    sim.settle().await;
    assert_eq!(sim.runs("consumer").len(), 1);
    let error = sim.airflow().materialize("s3://lake/order", "ada").await.unwrap_err();
    assert_eq!(error.to_string(), "there is no asset `s3://lake/order`; did you mean `s3://lake/orders`?");
}

#[task(inlets = [ORDERS, RATES])]
async fn past(cx: &TaskContext) -> Result<Vec<Value>> {
    Ok(cx.inlet_events(ORDERS).await?.into_iter().map(|event| event.extra).collect())
}

#[tokio::test]
async fn a_task_reads_past_events_of_its_inlets() {
    let reader = DagDef::new("reader").define(|d| {
        d.add(past::call());
    });
    let sim = Sim::new([producer(), reader]).start("2026-03-04T00:00Z").await;
    sim.advance(days(1)).await;
    let run = sim.trigger("reader").await.unwrap();
    sim.settle().await;
    let seen: Vec<Value> = sim.run("reader", run.run_id.as_str()).output_of("past").unwrap();
    assert_eq!(seen, [json!({ "rows": 97 }), json!({ "rows": 97 })]);
}

#[derive(Operator, Clone)]
struct Show {
    #[template]
    lines: Vec<String>,
}

impl Execute for Show {
    type Output = Vec<String>;

    async fn execute(&self, _: &TaskContext) -> Result<Vec<String>> {
        Ok(self.lines.clone())
    }
}

/// Goal: templates see what Airflow's see. Method: the expressions of its documentation.
#[tokio::test]
async fn templates_see_assets_and_events() {
    let lines = [
        "{% for uri, events in triggering_asset_events.items() %}{{ uri }}: {{ events[0].extra.rows }}{% endfor %}",
        "{{ (triggering_dataset_events.values() | first | first).timestamp | ds }}",
        "{{ (triggering_asset_events.values() | first | first).source_dag_run }}",
        "{{ inlets[0].uri }} {{ outlets | length }}",
        "{{ inlet_events['s3://lake/orders'] | length }}",
    ];
    let dag = DagDef::new("d").schedule([ORDERS]).define(|d| {
        let lines = lines.iter().map(ToString::to_string).collect();
        d.add(Show { lines }.inlets([ORDERS]).id("show"));
    });
    let run = DagTest::new(dag).at("2026-03-02").asset_event(ORDERS, json!({ "rows": 5 })).run().await;
    run.assert_success();
    let shown: Vec<String> = run.output_of("show").unwrap();
    assert_eq!(shown, ["s3://lake/orders: 5", "2026-03-02", "None", "s3://lake/orders 0", "1"]);
    assert_eq!(run.run().run_type.as_str(), "asset_triggered");
}

/// Goal: a task says nothing of what is not its own. Method: names that it has not among its outlets, and facts that are
/// no object.
#[tokio::test]
async fn a_task_speaks_of_its_own_outlets_only() {
    #[task(outlets = ORDERS)]
    async fn wrong(cx: &TaskContext) -> Result<Vec<String>> {
        let said = [
            cx.outlet_event(RATES).set("a", &1),
            cx.outlet_event(ORDERS).extra(&5),
            cx.alias_event("exports").add(RATES),
        ];
        Ok(said.into_iter().map(|said| said.unwrap_err().to_string()).collect())
    }
    let dag = DagDef::new("d").define(|d| {
        d.add(wrong::call());
    });
    let run = DagTest::new(dag).run().await;
    let said = run.output::<wrong>().unwrap();
    assert!(
        said[0].contains("`s3://lake/rates` is no outlet of task `wrong`; add it with `.outlets([..])`"),
        "{said:?}"
    );
    assert!(said[1].contains("the extra of an asset event is an object, not `5`"), "{said:?}");
    assert!(said[2].contains("the alias `exports` is no outlet of task `wrong`"), "{said:?}");
    assert_eq!(run.asset_events()[0].extra, json!({}));
}
