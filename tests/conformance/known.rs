//! What a case may say: the groups and the fields that each family looks at. A case of another group asks for something that
//! nobody checks, so it fails. So does one with another field, if it is ours; in other folders such fields are named, and
//! the answer decides.

use serde_json::Value;

/// What the cases of one family may say.
struct Form {
    family: &'static str,
    /// Its groups; a `*` stands for any text. None if its cases have no group.
    groups: &'static [&'static str],
    /// The paths of the fields that are looked at beside [`COMMON`]; a `*` stands for any text in a name. What stands
    /// below a path is open unless longer paths begin with it.
    fields: &'static [&'static str],
}

/// Fields that say what Airflow did, or something to people.
const COMMON: &[&str] =
    &["id", "group", "name", "note", "expected", "expected_airflow_3", "airflow_oddity", "order_dependent"];

/// What a file may say beside its cases.
const OF_FILES: &[&str] = &[
    "source",
    "description",
    "cases",
    "contexts",
    "variables",
    "connections",
    "default_log_filename_template",
];

#[rustfmt::skip]
const FORMS: &[Form] = &[
    Form {
        family: "config_env",
        groups: &["env_precedence", "interpolation", "get*", "cmd", "parse_errors"],
        fields: &[
            "config", "environment", "parse_raises", "queries[].section", "queries[].key", "queries[].getter",
            "queries[].arguments.raw", "queries[].arguments.fallback", "queries[].expected",
        ],
    },
    Form {
        family: "connection_uris",
        groups: &[
            "uri_to_fields", "fields_to_uri", "json_to_fields", "fields_to_json", "environment_variable", "conn_id",
            "extra_dejson",
        ],
        fields: &[
            "uri", "json", "AIRFLOW_CONN_*", "conn_id", "extra", "fields.conn_type", "fields.description",
            "fields.host", "fields.login", "fields.password", "fields.schema", "fields.port", "fields.extra",
        ],
    },
    Form {
        family: "fernet",
        groups: &[
            "encrypt_with_fixed_time_and_iv", "decrypt", "tampered_or_odd", "multi_key_decrypt", "rotate", "key_validity",
        ],
        fields: &[
            "key", "timestamp", "iv_hex", "plaintext", "expected_token", "fernet_key", "token",
            // How the token was spoilt; the token itself is in the case.
            "tampering",
        ],
    },
    Form {
        family: "graph_validation",
        groups: &[
            "random_graph", "task_id", "dag_id", "group_id", "duplicate", "bad_reference", "bad_argument",
            "setup_teardown_validation", "chain", "chain_linear", "cross_downstream", "shift_operators",
            "task_group_prefix", "partial_subset",
        ],
        fields: &[
            "task_ids", "edges", "task_id", "dag_id", "group_id", "what", "operator_argument", "arguments", "expression",
            // The same tasks and groups in all cases.
            "fixture",
            "tree", "task_ids_selected", "include_upstream", "include_downstream", "include_direct_upstream",
        ],
    },
    Form {
        family: "mapped_tasks",
        groups: &["mapped", "mapped_group", "removed_upstream"],
        fields: &[
            "serialized_dag_changed_before_first_pass",
            "tasks[].task_id", "tasks[].trigger_rule", "tasks[].retries", "tasks[].upstream_task_ids", "tasks[].partial",
            "tasks[].arguments", "tasks[].script", "tasks[].script_by_map_index", "tasks[].returns", "tasks[].expand",
            "tasks[].expand_kwargs", "tasks[].mapped_group", "tasks[].tasks[].task_id", "tasks[].tasks[].trigger_rule",
            "tasks[].tasks[].retries", "tasks[].tasks[].upstream_task_ids", "tasks[].tasks[].partial",
            "tasks[].tasks[].arguments", "tasks[].tasks[].script", "tasks[].tasks[].script_by_map_index",
            "tasks[].tasks[].returns", "tasks[].tasks[].arguments_from_group",
        ],
    },
    Form {
        family: "misc_ids_paths_xcom",
        groups: &["run_id", "run_type_from_run_id", "run_id_validation", "log_path", "xcom_rows"],
        fields: &[
            "run_type", "logical_date", "run_id", "log_filename_template", "dag_id", "task_id", "map_index", "try_number",
            // Ours has no such option: the pattern is Airflow's default in all cases.
            "allowed_run_id_pattern",
            "dag.branch", "dag.short_circuit", "dag.callable_returns", "dag.edges", "dag.ignore_downstream_trigger_rules",
            "dag.retries", "dag.multiple_outputs", "dag.do_xcom_push", "dag.*_do_xcom_push", "dag.*_returns",
            "dag.*_trigger_rule", "dag.*_pushes", "dag.*_pushes_at_try",
        ],
    },
    Form {
        family: "priority_weights",
        groups: &["downstream", "upstream", "absolute", "mixed", "validation"],
        fields: &[
            "expected_priority_weight_total", "priority_weight", "weight_rule", "tasks[].task_id",
            "tasks[].priority_weight", "tasks[].weight_rule", "tasks[].upstream_task_ids",
        ],
    },
    Form {
        family: "retry_delays",
        groups: &["exponential", "constant"],
        fields: &[
            "dag_id", "task_id", "logical_date", "retry_delay_seconds", "retry_exponential_backoff",
            "max_retry_delay_seconds", "try_number",
        ],
    },
    Form {
        family: "run_outcomes",
        groups: &[
            "classic_*_upstream", "classic_*_upstreams", "handwritten", "random_plain", "random_setup",
            "random_fail_stop", "random_branchy", "random_past",
        ],
        fields: &[
            "possible_outcomes", "runs[].run_id", "runs[].logical_date", "runs[].script", "dag.fail_stop",
            "dag.max_active_runs", "dag.tasks[].task_id", "dag.tasks[].operator", "dag.tasks[].trigger_rule",
            "dag.tasks[].retries", "dag.tasks[].upstream_task_ids", "dag.tasks[].depends_on_past",
            "dag.tasks[].wait_for_downstream", "dag.tasks[].ignore_downstream_trigger_rules", "dag.tasks[].is_setup",
            "dag.tasks[].is_teardown", "dag.tasks[].on_failure_fail_dagrun", "dag.tasks[].setups",
        ],
    },
    Form {
        family: "templates",
        groups: &[
            "date", "ids", "data", "airflow2_only_variables", "previous_success", "nested_structures", "jinja",
            "lenient_undefined", "strict_undefined", "native", "mapped_and_retried",
        ],
        fields: &["context", "template", "template_undefined", "render_template_as_native_obj"],
    },
    Form {
        family: "timetables",
        groups: &[
            "CronDataIntervalTimetable", "CronTriggerTimetable", "DeltaDataIntervalTimetable",
            "DeltaDataIntervalTimetable_relativedelta", "DeltaTriggerTimetable", "OnceTimetable",
            "ContinuousTimetable", "NullTimetable", "EventsTimetable", "infer_manual_data_interval", "cron_next_prev",
            "cron_validity",
        ],
        fields: &[
            "base", "catchup", "start_date", "end_date", "last_data_interval", "now", "manual_run_after", "validate",
            // How the steps were made; each step has its own `now`.
            "max_runs", "now_advance_seconds",
            "timetable.type", "timetable.cron", "timetable.timezone", "timetable.delta_seconds",
            "timetable.interval_seconds", "timetable.relativedelta", "timetable.event_dates",
            "timetable.restrict_to_events",
        ],
    },
    Form { family: "trigger_rules_airflow_3", groups: &[], fields: &["trigger_rule", "upstream_states"] },
];

fn form(family: &str) -> &'static Form {
    FORMS.iter().find(|form| form.family == family).expect("every family has its form")
}

/// Whether the family knows the group of a case.
pub(crate) fn check_group(family: &str, case: &Value) -> Result<(), String> {
    let form = form(family);
    match (case.get("group").map(|group| group.as_str()), form.groups) {
        (None, []) => Ok(()),
        (Some(Some(group)), known) if known.iter().any(|pattern| fits(pattern, group)) => Ok(()),
        (None, _) => Err("it has no group".to_owned()),
        (Some(_), _) => Err(format!("{family} knows no group {}", case["group"])),
    }
}

/// The path of a field of a case that the family does not look at.
pub(crate) fn unread_field(family: &str, case: &Value) -> Option<String> {
    let known: Vec<&str> = COMMON.iter().chain(form(family).fields).copied().collect();
    strange_field(case, "", &known)
}

/// What a file says beside its cases that nobody reads.
pub(crate) fn unread_in_file(file: &Value) -> Option<&str> {
    let names = file.as_object()?.keys();
    names.map(String::as_str).find(|name| !OF_FILES.contains(name))
}

/// The path of the first field that no pattern fits.
fn strange_field(value: &Value, path: &str, known: &[&str]) -> Option<String> {
    let is_open = !path.is_empty() && !known.iter().any(|pattern| goes_on(pattern, path));
    match value {
        _ if is_open => None,
        Value::Array(items) => {
            let path = format!("{path}[]");
            items.iter().find_map(|item| strange_field(item, &path, known))
        }
        Value::Object(fields) => fields.iter().find_map(|(name, value)| {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let is_known = known.iter().any(|pattern| same_path(pattern, &path) || goes_on(pattern, &path));
            if is_known { strange_field(value, &path, known) } else { Some(path) }
        }),
        _ => None,
    }
}

/// Whether a pattern fits a path, name by name.
fn same_path(pattern: &str, path: &str) -> bool {
    let (pattern, path): (Vec<&str>, Vec<&str>) = (pattern.split('.').collect(), path.split('.').collect());
    pattern.len() == path.len() && pattern.iter().zip(&path).all(|(pattern, name)| fits(pattern, name))
}

/// Whether a pattern says something of what stands below a path.
fn goes_on(pattern: &str, path: &str) -> bool {
    let (pattern, path): (Vec<&str>, Vec<&str>) = (pattern.split('.').collect(), path.split('.').collect());
    let (last, before) = path.split_last().expect("a path has a name");
    let begins = before.iter().zip(&pattern).all(|(name, pattern)| fits(pattern, name));
    match pattern.get(before.len()) {
        // Below a list, or below an object.
        Some(own) => {
            begins
                && (own.starts_with(&format!("{last}[")) || (pattern.len() > path.len() && fits(own, last)))
        }
        None => false,
    }
}

/// Whether a name is that of a pattern, in which one `*` stands for any text.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((begin, end)) => {
            name.len() >= begin.len() + end.len() && name.starts_with(begin) && name.ends_with(end)
        }
    }
}

/// Goal: the patterns refuse what they do not name, at every depth, and nothing else.
#[test]
fn a_field_is_known_by_its_path() {
    let known = ["id", "a.b", "list[].x", "list[].deep[].y", "open", "t.*_returns"];
    for (case, wanted) in [
        (serde_json::json!({"id": 1, "open": {"z": [{"w": 1}]}}), None),
        (serde_json::json!({"a": {"b": {"c": 1}}}), None),
        (serde_json::json!({"a": {"c": 1}}), Some("a.c")),
        (serde_json::json!({"list": [{"x": 1}, {"x": 1, "deep": [{"y": 1}]}]}), None),
        (serde_json::json!({"list": [{"x": 1}, {"y": 1}]}), Some("list[].y")),
        (serde_json::json!({"list": [{"deep": [{"x": 1}]}]}), Some("list[].deep[].x")),
        (serde_json::json!({"t": {"a_returns": {"x": 1}, "a_says": 1}}), Some("t.a_says")),
        (serde_json::json!({"other": 1}), Some("other")),
    ] {
        assert_eq!(strange_field(&case, "", &known).as_deref(), wanted, "{case}");
    }
}
