//! The trigger rule that only Airflow 3 has: one task under upstream tasks that end as the case says.

use airflow_core::dag::{DagDef, TaskExt};
use airflow_core::trigger_rule::TriggerRule;
use serde_json::{Value, json};

use super::engine::{Keeps, Order, Sim, block_on, mistakes};
use super::script::{Script, Scripted};

const RUN_ID: &str = "scheduled__2024-01-01T00:00:00+00:00";

pub(crate) fn check(case: &Value) -> Result<(), String> {
    let rule: TriggerRule = case["trigger_rule"].as_str().expect("a rule").parse().expect("a known rule");
    let plays = |id: &str, outcome: &str| {
        let script = json!([{ "run_id": RUN_ID, "script": { id: [outcome] } }]);
        Scripted(Script::of(id, script.as_array().expect("a list"))).id(id)
    };
    let def = DagDef::new("d").define(|d| {
        let target = d.add(plays("target", "success").trigger_rule(rule));
        for (index, state) in case["upstream_states"].as_array().expect("states").iter().enumerate() {
            let id = format!("u{index}");
            let up = match state.as_str().expect("a state") {
                "success" => d.add(plays(&id, "success")),
                "skipped" => d.add(plays(&id, "skip")),
                "failed" => d.add(plays(&id, "fail")),
                "upstream_failed" => {
                    let before = d.add(plays(&format!("before{index}"), "fail"));
                    let up = d.add(plays(&id, "success"));
                    d.order(before >> up);
                    up
                }
                other => panic!("unknown state {other}"),
            };
            d.order(up >> target);
        }
    });
    let got = block_on(async {
        let order = Order { slots: 100, picked: false };
        let mut sim =
            Sim::new(def, order, 1024, Keeps::Memory).await.map_err(|errors| mistakes(&errors.dags))?;
        let run = sim.create(RUN_ID, "2024-01-01T00:00:00Z".parse().expect("a date")).await;
        sim.run_to_rest().await;
        Ok::<_, String>(sim.stood(run.pk).await.tis[&("target".to_owned(), -1)].0)
    })?;
    let expected = &case["expected"]["state"];
    if *expected == got.as_str() { Ok(()) } else { Err(format!("expected {expected}, got {got}")) }
}
