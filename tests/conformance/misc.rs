//! Ids of runs, paths of logs, and the values that tasks leave behind.

use airflow_core::app::Airflow;
use airflow_core::attempt::log::{LogName, LogTemplate};
use airflow_core::dag::{Dag, DagDef, Node, Spec, TaskExt, TaskOptions};
use airflow_core::decide::timetable::run_id;
use airflow_core::id::MapIndex;
use airflow_core::operator::{Description, Empty, Operator, Result as TaskResult, TaskContext, TaskError};
use airflow_core::state::RunType;
use airflow_core::store::{MemoryStore, XComFilter};
use airflow_core::trigger_rule::TriggerRule;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use super::engine::{Keeps, Order, Sim, block_on, mistakes};
use super::report::{field, same};
use super::run_outcomes::texts;

pub(crate) fn check(case: &Value) -> Result<(), String> {
    match field(case, "group") {
        "run_id" => check_run_id(case),
        "run_type_from_run_id" => {
            let found = RunType::of_run_id(&renamed(field(case, "run_id")));
            same(&field(&case["expected"], "run_type").to_owned(), &renamed(found.as_str()))
        }
        "run_id_validation" => block_on(check_given_id(case)),
        "log_path" => check_log_path(case),
        "xcom_rows" => Keeps::ALL.into_iter().try_for_each(|keeps| block_on(check_values(case, keeps))),
        other => Err(format!("no group `{other}`")),
    }
}

/// Airflow 3 renamed datasets to assets, and so did we: the names change places.
fn renamed(text: &str) -> String {
    match (text.strip_prefix("dataset_triggered"), text.strip_prefix("asset_triggered")) {
        (Some(rest), _) => format!("asset_triggered{rest}"),
        (_, Some(rest)) => format!("dataset_triggered{rest}"),
        _ => text.to_owned(),
    }
}

fn check_run_id(case: &Value) -> Result<(), String> {
    let kind: RunType = renamed(field(case, "run_type")).parse().map_err(|_| "no such type of run")?;
    let date = DateTime::parse_from_rfc3339(field(case, "logical_date")).map_err(|e| e.to_string())?;
    same(&field(&case["expected"], "run_id").to_owned(), &renamed(run_id(kind, &date).as_str()))
}

/// The id goes into a trigger of a real application.
async fn check_given_id(case: &Value) -> Result<(), String> {
    let dag = DagDef::new("d").define(|d| {
        d.add(Empty::new().id("t"));
    });
    let airflow = Airflow::builder().store(MemoryStore::new()).dag(dag).build().await;
    let airflow = airflow.map_err(|error| error.to_string())?;
    let date: DateTime<Utc> = field(case, "logical_date").parse().map_err(|_| "no date")?;
    let given = field(case, "run_id");
    let got = match airflow.trigger("d").run_id(renamed(given)).logical_date(date).await {
        Ok(run) => json!({ "accepted": true, "run_id": renamed(run.run_id.as_str()) }),
        Err(_) => json!({ "accepted": false }),
    };
    let mut expected = case["expected"].clone();
    if let Some(fields) = expected.as_object_mut() {
        fields.retain(|name, _| name == "accepted" || name == "run_id");
    }
    same(&expected, &got)
}

fn check_log_path(case: &Value) -> Result<(), String> {
    let (dag, run, task) = (field(case, "dag_id"), field(case, "run_id"), field(case, "task_id"));
    let number = |name: &str| case[name].as_i64().expect("a number");
    let name = LogName {
        dag: &dag.into(),
        run: &run.into(),
        logical_date: field(case, "logical_date").parse().map_err(|_| "no date")?,
        data_interval: None,
        task: &task.into(),
        map_index: MapIndex(i32::try_from(number("map_index")).map_err(|e| e.to_string())?),
        try_number: u32::try_from(number("try_number")).map_err(|e| e.to_string())?,
    };
    let template = LogTemplate::new(field(case, "log_filename_template"));
    let path = template.path(&name).map_err(|error| error.to_string())?;
    same(&Some(field(&case["expected"], "path")), &path.to_str())
}

/// Pushes and returns what the case says.
struct Says {
    returns: Value,
    pushes: Vec<Value>,
    pushes_at_try: Map<String, Value>,
    /// Whether each field of the result is a value of its own as well.
    several: bool,
}

impl Operator for Says {
    type Output = Option<Value>;
    const NAME: &'static str = "says";

    fn describe(&self, _: &mut Description) {}

    async fn execute(&self, cx: &TaskContext) -> TaskResult<Option<Value>> {
        let attempt = cx.try_number().to_string();
        let at_try = self.pushes_at_try.get(&attempt).and_then(Value::as_array);
        for push in self.pushes.iter().chain(at_try.into_iter().flatten()) {
            cx.xcom_push(push[0].as_str().unwrap_or_default(), &push[1])?;
        }
        let last = self.pushes_at_try.keys().filter_map(|number| number.parse().ok()).max();
        if last.is_some_and(|last: u32| cx.try_number() < last) {
            return Err(TaskError::msg("a later try succeeds"));
        }
        if self.several {
            let fields = self.returns.as_object().ok_or_else(|| TaskError::fail("it has no fields"))?;
            for (name, value) in fields {
                cx.xcom_push(name, value)?;
            }
        }
        Ok(Some(self.returns.clone()).filter(|value| !value.is_null()))
    }
}

/// Chooses ids, or whether to go on.
struct Chooses(Vec<String>);
struct Asks(bool);

impl Operator for Chooses {
    type Output = Vec<String>;
    const NAME: &'static str = "chooses";

    fn describe(&self, _: &mut Description) {}

    async fn execute(&self, _: &TaskContext) -> TaskResult<Vec<String>> {
        Ok(self.0.clone())
    }
}

impl Operator for Asks {
    type Output = bool;
    const NAME: &'static str = "asks";

    fn describe(&self, _: &mut Description) {}

    async fn execute(&self, _: &TaskContext) -> TaskResult<bool> {
        Ok(self.0)
    }
}

fn says(dag: &Value, task: &str) -> Spec<Says> {
    let list = |name: &str| dag[name].as_array().cloned().unwrap_or_default();
    let at_try = dag[format!("{task}_pushes_at_try")].as_object().cloned().unwrap_or_default();
    let several = dag["multiple_outputs"] == true;
    let mut returns = dag[format!("{task}_returns")].clone();
    if let Some(dictionary) = returns.as_str().filter(|_| several) {
        // The cases write it as Python prints it.
        returns = serde_json::from_str(&dictionary.replace('\'', "\"")).unwrap_or_default();
    }
    let says = Says { returns, several, pushes: list(&format!("{task}_pushes")), pushes_at_try: at_try };
    let retries = dag["retries"].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or_default();
    let mut spec = says.id(task).retries(retries);
    if let Some(rule) =
        dag[format!("{task}_trigger_rule")].as_str().and_then(|rule| TriggerRule::parse(rule).ok())
    {
        spec = spec.trigger_rule(rule);
    }
    let pushes = dag.get("do_xcom_push").or_else(|| dag.get(format!("{task}_do_xcom_push")));
    if pushes == Some(&Value::Bool(false)) { spec.do_xcom_push(false) } else { spec }
}

/// A branch returns a list of ids here, whatever form Airflow takes.
fn chosen(returns: &Value) -> Vec<String> {
    match returns {
        Value::String(id) => vec![id.clone()],
        other => texts(other).into_iter().map(str::to_owned).collect(),
    }
}

/// Whether Python takes a value for true.
fn truth(value: &Value) -> bool {
    !matches!(value, Value::Null | Value::Bool(false))
        && value.as_f64() != Some(0.0)
        && value != &json!("")
        && value != &json!([])
        && value != &json!({})
}

fn define(d: &Dag, dag: &Value) {
    let returns = &dag["callable_returns"];
    let edges: Vec<(&str, &str)> = dag["edges"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|edge| (edge[0].as_str().unwrap_or_default(), edge[1].as_str().unwrap_or_default()))
        .collect();
    let mut nodes: Vec<(&str, Node<'_>)> = Vec::new();
    for (up, down) in edges.iter().copied().chain(edges.is_empty().then_some(("t", "t"))) {
        for task in [up, down] {
            if nodes.iter().any(|(known, _)| *known == task) {
                continue;
            }
            let node = if dag["branch"] == task {
                let choice = d.add(Chooses(chosen(returns)).id(task));
                d.branch_by_id(choice);
                choice.node()
            } else if dag["short_circuit"] == task {
                let condition = d.add(Asks(truth(returns)).id(task));
                if dag["ignore_downstream_trigger_rules"] == false {
                    d.skip_unless(condition).node()
                } else {
                    d.short_circuit(condition).node()
                }
            } else {
                d.add(says(dag, task)).node()
            };
            nodes.push((task, node));
        }
    }
    let find = |id: &str| nodes.iter().find(|(other, _)| *other == id).expect("a node of the case").1;
    edges.iter().for_each(|(up, down)| d.order(find(up) >> find(down)));
}

/// A run on the real engine, and what lies in the store afterwards.
async fn check_values(case: &Value, keeps: Keeps) -> Result<(), String> {
    let dag = &case["dag"];
    let def = DagDef::new("d")
        .schedule("@daily")
        .start_date("2024-01-01")
        .default_args(TaskOptions::new().retry_delay(std::time::Duration::ZERO))
        .define(|d| define(d, dag));
    let order = Order { slots: 100, picked: false };
    let mut sim = Sim::new(def, order, 1024, keeps).await.map_err(|errors| mistakes(&errors.dags))?;
    let run = sim.create("r", "2024-01-01T00:00:00Z".parse().map_err(|_| "a date")?).await;
    sim.run_to_rest().await;
    let stood = sim.stood(run.pk).await;
    let states = stood.tis.iter().map(|((task, _), (state, _))| (task.clone(), json!(state.as_str())));
    same(&case["expected"]["states"], &Value::Object(states.collect()))?;
    let filter = XComFilter { run: run.pk, tasks: Vec::new(), map_index: None, key: None };
    let rows = sim.store.xcoms(&filter).await.map_err(|error| error.to_string())?;
    let mut got: Vec<Value> = rows
        .iter()
        .map(|row| row_of(row.task_id.as_str(), row.map_index.0, &row.key, row.value.value().clone()))
        .collect();
    let mut expected = expected_rows(case);
    for rows in [&mut got, &mut expected] {
        rows.sort_by_key(ToString::to_string);
    }
    same(&expected, &got)
}

fn row_of(task: &str, map_index: i32, key: &str, mut value: Value) -> Value {
    if key == "skipmixin_key" {
        for ids in value.as_object_mut().into_iter().flat_map(|record| record.values_mut()) {
            ids.as_array_mut().into_iter().for_each(|ids| ids.sort_by_key(ToString::to_string));
        }
    }
    json!({ "task_id": task, "map_index": map_index, "key": key, "stored_value": value })
}

/// The rows of Airflow. What a branch or a condition returns is typed here: a list of ids, true or false; so it is
/// stored as that, and it is there even where Python's function returned nothing.
fn expected_rows(case: &Value) -> Vec<Value> {
    let (dag, mut rows) = (&case["dag"], Vec::new());
    let decider = dag["branch"].as_str().or_else(|| dag["short_circuit"].as_str());
    let succeeded = |task: &str| case["expected"]["states"][task] == "success";
    for row in case["expected"]["xcom_rows"].as_array().into_iter().flatten() {
        let (task, key) = (field(row, "task_id"), field(row, "key"));
        if decider != Some(task) || key != "return_value" {
            let index = row["map_index"].as_i64().and_then(|index| i32::try_from(index).ok());
            rows.push(row_of(task, index.unwrap_or(-1), key, row["stored_value"].clone()));
        }
    }
    if let Some(task) = decider.filter(|task| succeeded(task)) {
        let returns = &dag["callable_returns"];
        let typed = if dag["branch"].is_string() { json!(chosen(returns)) } else { json!(truth(returns)) };
        rows.push(row_of(task, -1, "return_value", typed));
    }
    rows
}
