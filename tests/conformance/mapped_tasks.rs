//! Mapped tasks and groups: how many instances there are, what each sees, how each ends.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use airflow_core::dag::{Dag, DagDef, Handle, MapOver, Mapped, Node, Outside, Spec, TaskExt, TaskOptions};
use airflow_core::id::TiKey;
use airflow_core::operator::{
    Description, Elem, Expand, In, IntoIn, Operator, Result as TaskResult, TaskContext, TaskError,
};
use airflow_core::state::TaskState;
use airflow_core::trigger_rule::TriggerRule;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::engine::{Keeps, Order, Sim, block_on, mistakes};
use super::run_outcomes::texts;
use super::script::play;

/// The limit under which the cases were made.
const MAX_MAP_LENGTH: usize = 6;

/// What each instance saw.
type Seen = Arc<Mutex<BTreeMap<(String, i32), Value>>>;

/// What a function over an element says: a value, or how the instance ends.
#[derive(Debug, Clone)]
enum Given {
    Value(Value),
    Skip,
    Fail(String),
}

/// The arguments that the function knows; others are refused.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    x: Option<Value>,
    y: Option<Value>,
    z: Option<Value>,
}

/// A function with arguments: notes what it sees, plays its script, returns a value or what it saw.
struct Function {
    arguments: Vec<(String, In<Given>)>,
    keywords: Option<In<Given>>,
    returns: Option<Value>,
    script: BTreeMap<i32, Vec<Value>>,
    seen: Seen,
}

impl Operator for Function {
    type Output = Value;
    const NAME: &'static str = "function";

    fn describe(&self, description: &mut Description) {
        self.arguments.iter().for_each(|(_, input)| description.input(input));
        self.keywords.iter().for_each(|input| description.input(input));
    }

    async fn execute(&self, cx: &TaskContext) -> TaskResult<Value> {
        let mut arguments = Map::new();
        for (name, input) in &self.arguments {
            arguments.insert(name.clone(), take(input, cx)?);
        }
        if let Some(input) = &self.keywords {
            let known: Known = serde_json::from_value(take(input, cx)?).map_err(TaskError::msg)?;
            let named = [("x", known.x), ("y", known.y), ("z", known.z)];
            arguments.extend(named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        }
        arguments.retain(|_, value| !value.is_null());
        let map = cx.ti().map_index.0;
        let arguments = Value::Object(arguments);
        let key = (cx.task_id().to_string(), map);
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(key, arguments.clone());
        play(self.script.get(&map).map_or(&[][..], Vec::as_slice), cx.try_number())?;
        Ok(self.returns.clone().unwrap_or(arguments))
    }
}

fn take(input: &In<Given>, cx: &TaskContext) -> TaskResult<Value> {
    match input.get(cx)? {
        Given::Value(value) => Ok(value),
        Given::Skip => Err(TaskError::skip("the function says so")),
        Given::Fail(error) => Err(TaskError::msg(error)),
    }
}

/// Applies a function of the cases.
fn apply(function: &str, given: Given) -> Given {
    let Given::Value(value) = given else { return given };
    let number = value.as_i64();
    match function {
        "double" => number.map_or(Given::Fail("no number".into()), |n| Given::Value(json!(2 * n))),
        "wrap" => Given::Value(json!({ "x": value })),
        "skip_odd" if number.is_some_and(|n| n % 2 != 0) => Given::Skip,
        "fail_on_2" if number == Some(2) => Given::Fail("two".into()),
        "skip_odd" | "fail_on_2" => Given::Value(value),
        other => panic!("unknown function {other}"),
    }
}

/// What a task or group is mapped over.
enum Over<'d> {
    List(Vec<Value>),
    Entries(Vec<(String, Value)>),
    Result(Handle<'d, Value>),
    Results(Mapped<'d, Value>),
    Zip(Vec<Self>, Option<Value>),
    Concat(Vec<Self>),
    Product(Vec<Self>),
}

impl MapOver for Over<'_> {
    type Item = Value;

    fn expand(self, tokens: &mut Vec<u64>) -> Result<Expand, String> {
        let mut all = |parts: Vec<Self>| {
            parts.into_iter().map(|part| part.expand(tokens)).collect::<Result<Vec<_>, _>>()
        };
        match self {
            Self::Zip(parts, fill) => Ok(Expand::Zip(all(parts)?, fill)),
            Self::Concat(parts) => Ok(Expand::Concat(all(parts)?)),
            Self::Product(parts) => Ok(Expand::Product(all(parts)?)),
            Self::List(values) => values.expand(tokens),
            Self::Entries(entries) => entries.expand(tokens),
            Self::Result(handle) => handle.expand(tokens),
            Self::Results(mapped) => mapped.expand(tokens),
        }
    }
}

/// How an element becomes an argument.
type Change = Arc<dyn Fn(Value) -> Given + Send + Sync>;

/// The tasks so far.
#[derive(Clone, Copy)]
enum Added<'d> {
    One(Handle<'d, Value>),
    Many(Mapped<'d, Value>),
}

/// The tasks of a group, which look mapped from outside.
struct Inside<'d>(Vec<(String, Handle<'d, Value>)>);

impl<'d> Outside for Inside<'d> {
    type Out = Vec<(String, Mapped<'d, Value>)>;

    fn outside(self) -> Self::Out {
        self.0.into_iter().map(|(id, handle)| (id, handle.outside())).collect()
    }
}

struct Build<'d> {
    d: &'d Dag,
    added: BTreeMap<String, Added<'d>>,
    nodes: BTreeMap<String, Node<'d>>,
    seen: Seen,
}

impl<'d> Build<'d> {
    /// What a mapping runs over, and what happens to each element.
    fn over(&self, spec: &Value) -> (Over<'d>, Change) {
        let same: Change = Arc::new(Given::Value);
        match spec {
            Value::Array(list) => (Over::List(list.clone()), same),
            Value::Object(object) => match object.get("xcom").and_then(Value::as_str) {
                None => (Over::Entries(object.clone().into_iter().collect()), same),
                Some(task) => {
                    let strange = object.keys().find(|key| !matches!(key.as_str(), "xcom" | "then"));
                    assert!(strange.is_none(), "nothing is known of {strange:?} beside `xcom`");
                    let steps = object.get("then").and_then(Value::as_array);
                    let steps = steps.map_or(&[][..], Vec::as_slice);
                    steps.iter().fold((self.results(task), same), |so_far, step| self.then(so_far, step))
                }
            },
            other => panic!("nothing is mapped over {other}"),
        }
    }

    fn results(&self, task: &str) -> Over<'d> {
        match self.added[task] {
            Added::One(handle) => Over::Result(handle),
            Added::Many(mapped) => Over::Results(mapped),
        }
    }

    fn then(&self, (over, change): (Over<'d>, Change), step: &Value) -> (Over<'d>, Change) {
        let names: Vec<&str> =
            step.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        let is_known =
            matches!(names[..], ["map" | "zip" | "concat"] | ["fillvalue", "zip"] | ["zip", "fillvalue"]);
        assert!(is_known, "nothing is known of the step {step}");
        if let Some(function) = step["map"].as_str() {
            let function = function.to_owned();
            return (over, Arc::new(move |value| apply(&function, change(value))));
        }
        let with = |others: &Value| {
            std::iter::once(over).chain(texts(others).into_iter().map(|task| self.results(task))).collect()
        };
        if step["zip"].is_array() {
            let fill = step.get("fillvalue").filter(|fill| !fill.is_null()).cloned();
            let first: Change = Arc::new(move |value| {
                let Value::Array(mut parts) = value else { return Given::Fail("no tuple".into()) };
                match change(parts[0].take()) {
                    Given::Value(value) => {
                        parts[0] = value;
                        Given::Value(Value::Array(parts))
                    }
                    ended => ended,
                }
            });
            return (Over::Zip(with(&step["zip"]), fill), first);
        }
        (Over::Concat(with(&step["concat"])), change)
    }

    fn function(&self, task: &Value, own: Vec<(String, In<Given>)>) -> Function {
        let mut arguments = own;
        for (name, value) in task["partial"].as_object().into_iter().flatten() {
            arguments.push((name.clone(), constant(value)));
        }
        for (name, value) in task["arguments"].as_object().into_iter().flatten() {
            let input = match value["xcom"].as_str().map(|task| self.added[task]) {
                None => constant(value),
                Some(Added::One(handle)) => handle.map(Given::Value),
                Some(Added::Many(mapped)) => {
                    IntoIn::<Vec<Value>>::into_in(mapped).map(|all| Given::Value(Value::Array(all)))
                }
            };
            arguments.push((name.clone(), input));
        }
        let mut script: BTreeMap<i32, Vec<Value>> = BTreeMap::new();
        if let Some(outcomes) = task["script"].as_array() {
            script.insert(-1, outcomes.clone());
        }
        for (index, outcomes) in task["script_by_map_index"].as_object().into_iter().flatten() {
            let index = index.parse().expect("a map index");
            script.insert(index, outcomes.as_array().expect("a script").clone());
        }
        let returns = task.get("returns").cloned();
        Function { arguments, keywords: None, returns, script, seen: Arc::clone(&self.seen) }
    }

    fn add(&mut self, task: &Value) {
        let id = task["task_id"].as_str().expect("an id").to_owned();
        let (added, node) = if let Some(expand) = task["expand"].as_object() {
            let mapped = self.expanded(task, expand);
            (Added::Many(mapped), mapped.node())
        } else if !task["expand_kwargs"].is_null() {
            let (over, change) = self.over(&task["expand_kwargs"]);
            let mapped = self.d.map(over, |element| {
                let keywords = element.map(move |value| change(value)).into_in();
                with_options(Function { keywords: Some(keywords), ..self.function(task, Vec::new()) }, task)
            });
            (Added::Many(mapped), mapped.node())
        } else {
            let handle = self.d.add(with_options(self.function(task, Vec::new()), task));
            (Added::One(handle), handle.node())
        };
        self.nodes.insert(id.clone(), node);
        self.added.insert(id, added);
    }

    fn expanded(&self, task: &Value, expand: &Map<String, Value>) -> Mapped<'d, Value> {
        let (mut overs, changes): (Vec<_>, Vec<_>) = expand.values().map(|spec| self.over(spec)).unzip();
        let single = overs.len() == 1;
        let over = if single { overs.remove(0) } else { Over::Product(overs) };
        self.d.map(over, |element: Elem<Value>| {
            let names = expand.keys().cloned().zip(changes).enumerate();
            let argument = |(index, (name, change)): (usize, (String, Change))| {
                let part = move |mut value: Value| change(if single { value } else { value[index].take() });
                (name, element.clone().map(part).into_in())
            };
            with_options(self.function(task, names.map(argument).collect()), task)
        })
    }

    fn add_group(&mut self, group: &Value) {
        let id = group["mapped_group"].as_str().expect("an id");
        let expand = group["expand"].as_object().expect("what it is mapped over");
        let (name, spec) = expand.iter().next().expect("one list");
        let (over, change) = self.over(spec);
        let members = self.d.map_group(id, over, |d, element| {
            let mut inside = Vec::new();
            for task in group["tasks"].as_array().expect("tasks is a list") {
                let change = Arc::clone(&change);
                let own = (task["arguments_from_group"] == true)
                    .then(|| (name.clone(), element.clone().map(move |value| change(value)).into_in()));
                let handle = d.add(with_options(self.function(task, own.into_iter().collect()), task));
                let id = task["task_id"].as_str().expect("an id").to_owned();
                self.nodes.insert(id.clone(), handle.node());
                self.added.insert(id.clone(), Added::One(handle));
                inside.push((id, handle));
            }
            Inside(inside)
        });
        self.added.extend(members.into_iter().map(|(id, mapped)| (id, Added::Many(mapped))));
    }
}

fn constant(value: &Value) -> In<Given> {
    let value: In<Value> = value.clone().into_in();
    value.map(Given::Value)
}

fn with_options(function: Function, task: &Value) -> Spec<Function> {
    let id = task["task_id"].as_str().expect("an id");
    let rule = task["trigger_rule"].as_str().unwrap_or("all_success");
    let retries = u32::try_from(task["retries"].as_u64().unwrap_or(0)).expect("a small number");
    let local = id.rsplit('.').next().expect("an id has an end");
    function.id(local).retries(retries).trigger_rule(TriggerRule::parse(rule).expect("a known rule"))
}

/// Over every store.
pub(crate) fn check(case: &Value) -> Result<(), String> {
    Keeps::ALL
        .into_iter()
        .try_for_each(|keeps| check_over(case, keeps).map_err(|mismatch| format!("{keeps:?}: {mismatch}")))
}

fn check_over(case: &Value, keeps: Keeps) -> Result<(), String> {
    let seen = Seen::default();
    let tasks = case["tasks"].as_array().expect("tasks is a list");
    let def = DagDef::new("d").default_args(TaskOptions::new().retry_delay(Duration::ZERO)).define(|d| {
        let mut build = Build { d, added: BTreeMap::new(), nodes: BTreeMap::new(), seen: Arc::clone(&seen) };
        for task in tasks {
            if task["mapped_group"].is_string() { build.add_group(task) } else { build.add(task) }
        }
        let inner = tasks.iter().flat_map(|task| task["tasks"].as_array().into_iter().flatten());
        for task in tasks.iter().chain(inner).filter(|task| task["task_id"].is_string()) {
            let node = build.nodes[task["task_id"].as_str().expect("an id")];
            for up in texts(&task["upstream_task_ids"]) {
                d.order(build.nodes[up] >> node);
            }
        }
    });
    let got = block_on(run(def, keeps, &seen, case["serialized_dag_changed_before_first_pass"] == true))?;
    if got == case["expected"] { Ok(()) } else { Err(format!("expected {}, got {got}", case["expected"])) }
}

async fn run(def: DagDef, keeps: Keeps, seen: &Seen, removed: bool) -> Result<Value, String> {
    let order = Order { slots: 10_000, picked: false };
    let mut sim =
        Sim::new(def, order, MAX_MAP_LENGTH, keeps).await.map_err(|errors| mistakes(&errors.dags))?;
    let run = sim
        .create("scheduled__2024-01-01T00:00:00+00:00", "2024-01-01T00:00:00Z".parse().expect("a date"))
        .await;
    if removed {
        let task = sim.dag.find("m").expect("the mapped task");
        sim.remove(run.pk, TiKey::single(task)).await;
    }
    sim.run_to_rest().await;
    let stood = sim.stood(run.pk).await;
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let shown = stood.tis.iter().map(|(key, (state, try_number))| {
        let state = if *state == TaskState::None { Value::Null } else { json!(state.as_str()) };
        let mut ti =
            json!({ "task_id": key.0, "map_index": key.1, "state": state, "try_number": try_number });
        if let Some(arguments) = seen.get(key) {
            ti["arguments_seen"] = arguments.clone();
        }
        ti
    });
    Ok(json!({ "dag_run_state": stood.run.as_str(), "task_instances": shown.collect::<Vec<_>>() }))
}
