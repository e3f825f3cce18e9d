//! The options that each macro knows: their names, Airflow's names for them, and what they take.

use std::cmp::min;

/// What an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A whole number from this one on.
    Count(u32),
    /// A whole number, also below zero.
    Int,
    /// The factor of the back-off, or whether there is one.
    Factor,
    /// `"30s"`, or an expression.
    Duration,
    /// A text, or an expression.
    Text,
    /// A text, which is an id, or an expression.
    Id,
    /// A text, which is a colour.
    Color,
    /// `true`, `false`, nothing (which means `true`), or an expression.
    Bool,
    /// As `Bool`, but the macro must know it.
    Switch,
    /// The name of a trigger rule, or an expression.
    TriggerRule,
    /// The name of a weight rule, or an expression.
    WeightRule,
    /// The name of a mode of sensors, or an expression.
    SensorMode,
    /// The name of an isolation, or an expression.
    Isolation,
    /// A function, or a list of them.
    Callback,
    /// A list of texts.
    Texts,
    /// A date as text, or an expression.
    When,
    /// A URI as text, or an expression: an asset, or a list of them.
    Assets,
    /// A text, or an expression.
    Schedule,
    /// An expression.
    Expr,
    /// A type, or a value of it.
    Type,
    /// Types in parentheses.
    Types,
    /// A path.
    Path,
}

/// One option.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    aliases: &'static [&'static str],
}

const fn key(name: &'static str, kind: Kind, aliases: &'static [&'static str]) -> Key {
    Key { name, kind, aliases }
}

/// Options of tasks: the setters of `TaskOptions`, then what the macros do themselves.
pub(crate) const OPTIONS: &[Key] = &[
    key("id", Kind::Id, &["task_id"]),
    key("retries", Kind::Count(0), &[]),
    key("retry_delay", Kind::Duration, &[]),
    key("retry_exponential_backoff", Kind::Factor, &["exponential_backoff"]),
    key("max_retry_delay", Kind::Duration, &[]),
    key("timeout", Kind::Duration, &[]),
    key("execution_timeout", Kind::Duration, &[]),
    key("sla", Kind::Duration, &[]),
    key("pool", Kind::Text, &[]),
    key("pool_slots", Kind::Count(1), &[]),
    key("priority_weight", Kind::Int, &[]),
    key("weight_rule", Kind::WeightRule, &[]),
    key("queue", Kind::Text, &[]),
    key("executor", Kind::Text, &[]),
    key("executor_config", Kind::Expr, &[]),
    key("isolation", Kind::Isolation, &[]),
    key("trigger_rule", Kind::TriggerRule, &["when"]),
    key("depends_on_past", Kind::Bool, &[]),
    key("wait_for_downstream", Kind::Bool, &[]),
    key("max_active_tis_per_dag", Kind::Count(1), &[]),
    key("max_active_tis_per_dagrun", Kind::Count(1), &[]),
    key("start_date", Kind::Expr, &[]),
    key("end_date", Kind::Expr, &[]),
    key("do_xcom_push", Kind::Bool, &[]),
    key("owner", Kind::Text, &[]),
    key("doc", Kind::Text, &["doc_md"]),
    key("display_name", Kind::Text, &["task_display_name"]),
    key("outlets", Kind::Assets, &[]),
    key("inlets", Kind::Assets, &[]),
    key("on_execute", Kind::Callback, &["on_execute_callback"]),
    key("on_success", Kind::Callback, &["on_success_callback"]),
    key("on_failure", Kind::Callback, &["on_failure_callback"]),
    key("on_retry", Kind::Callback, &["on_retry_callback"]),
    key("on_skipped", Kind::Callback, &["on_skipped_callback"]),
    key("setup", Kind::Switch, &[]),
    key("teardown", Kind::Switch, &[]),
    key("on_failure_fail_dagrun", Kind::Switch, &[]),
    key("crate", Kind::Path, &[]),
];

/// What only `#[task]` takes.
pub(crate) const TASK: &[Key] = &[key("blocking", Kind::Switch, &[]), key("triggers", Kind::Types, &[])];

/// What only `#[sensor]` takes, beside the options of sensors.
pub(crate) const SENSOR_FN: &[Key] = &[key("blocking", Kind::Switch, &[])];

/// Options of sensors: the other setters of `TaskOptions`.
pub(crate) const SENSOR: &[Key] = &[
    key("mode", Kind::SensorMode, &[]),
    key("poke_interval", Kind::Duration, &["poke_every"]),
    key("poke_backoff", Kind::Bool, &[]),
    key("max_wait", Kind::Duration, &[]),
    key("soft_fail", Kind::Bool, &[]),
    key("silent_fail", Kind::Bool, &[]),
    key("never_fail", Kind::Bool, &[]),
];

/// What only `#[operator(..)]` takes.
pub(crate) const OPERATOR: &[Key] = &[
    key("name", Kind::Text, &[]),
    key("color", Kind::Color, &[]),
    key("needs", Kind::Types, &[]),
    key("triggers", Kind::Types, &[]),
    key("sensor", Kind::Switch, &[]),
];

/// Options of `#[dag]`: the setters of `DagDef`.
pub(crate) const DAG: &[Key] = &[
    key("id", Kind::Id, &["dag_id"]),
    key("schedule", Kind::Schedule, &[]),
    key("timezone", Kind::Text, &["tz"]),
    key("start_date", Kind::When, &["start"]),
    key("end_date", Kind::When, &["end"]),
    key("catchup", Kind::Bool, &[]),
    key("max_active_runs", Kind::Count(1), &[]),
    key("max_active_tasks", Kind::Count(1), &[]),
    key("dagrun_timeout", Kind::Duration, &[]),
    key("tags", Kind::Texts, &[]),
    key("owner", Kind::Text, &[]),
    key("description", Kind::Text, &[]),
    key("doc", Kind::Text, &["doc_md"]),
    key("display_name", Kind::Text, &["dag_display_name"]),
    key("paused_at_creation", Kind::Bool, &["is_paused_upon_creation"]),
    key("fail_fast", Kind::Bool, &["fail_stop"]),
    key("max_consecutive_failed_dag_runs", Kind::Count(0), &[]),
    key("on_success", Kind::Callback, &["on_success_callback"]),
    key("on_failure", Kind::Callback, &["on_failure_callback"]),
    key("on_sla_miss", Kind::Callback, &["sla_miss_callback"]),
    key("deadline", Kind::Expr, &[]),
    key("params", Kind::Type, &[]),
    key("default_args", Kind::Expr, &[]),
    key("render_template_as_native_obj", Kind::Bool, &[]),
    key("template_undefined", Kind::Expr, &[]),
    key("template_searchpath", Kind::Texts, &[]),
    key("crate", Kind::Path, &[]),
];

/// What only `#[branch(..)]` takes.
pub(crate) const BRANCH: &[Key] = &[key("crate", Kind::Path, &[])];

/// Words of Airflow and of other libraries that no edit distance leads to the right option.
const OTHER_WORDS: &[(&str, &str)] = &[
    ("schedule_interval", "schedule"),
    ("timetable", "schedule"),
    ("cron", "schedule"),
    ("max_tries", "retries"),
    ("retry", "retries"),
    ("deadline", "timeout"),
    ("priority", "priority_weight"),
    ("concurrency", "max_active_tasks"),
    ("label", "display_name"),
    ("after", "depends_on_past"),
];

/// Finds the option that a user calls `word`.
pub(crate) fn find(known: &[&'static [Key]], word: &str) -> Option<&'static Key> {
    all(known).find(|key| key.name == word || key.aliases.contains(&word))
}

/// What to say of a word that is no option of `place`.
pub(crate) fn unknown(known: &[&'static [Key]], place: &str, word: &str) -> String {
    if let Some(near) = suggest(known, word) {
        return format!("unknown option `{word}`; did you mean `{near}`?");
    }
    let names: Vec<_> = all(known).map(|key| format!("`{}`", key.name)).collect();
    format!("unknown option `{word}`; the options of `{place}` are {}", names.join(", "))
}

fn all(known: &[&'static [Key]]) -> impl Iterator<Item = &'static Key> {
    known.iter().flat_map(|keys| keys.iter())
}

fn suggest(known: &[&'static [Key]], word: &str) -> Option<&'static str> {
    let meant = OTHER_WORDS.iter().find(|(other, _)| *other == word).map(|(_, name)| *name);
    if let Some(key) = meant.and_then(|name| find(known, name)) {
        return Some(key.name);
    }
    let words = all(known).flat_map(|key| std::iter::once(key.name).chain(key.aliases.iter().copied()));
    nearest(word, words)
}

/// The nearest of `words` that is near enough to be meant.
pub(crate) fn nearest<'w>(word: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    // A third of the letters may be wrong: `retrys` is near `retries`, `foo` is near nothing.
    let limit = (word.chars().count() / 3).clamp(1, 3);
    let near = words.map(|known| (distance(word, known), known)).min_by_key(|(distance, _)| *distance);
    near.filter(|(distance, _)| *distance <= limit).map(|(_, known)| known)
}

/// How many letters must be added, removed, replaced or swapped with their neighbour to make one word the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = min(replaced, min(rows[i - 1][j], row[j - 1]) + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = min(best, rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_word_is_suggested_and_a_far_one_gets_the_list() {
        for (known, word, near) in [
            (&[OPTIONS, TASK][..], "retrys", Some("retries")),
            (&[OPTIONS, TASK], "retry_dealy", Some("retry_delay")),
            (&[OPTIONS, TASK], "on_faliure_callback", Some("on_failure_callback")),
            (&[OPTIONS, TASK], "colour", None),
            (&[OPTIONS, OPERATOR], "colour", Some("color")),
            (&[DAG], "schedule_interval", Some("schedule")),
            (&[DAG], "catch_up", Some("catchup")),
            (&[DAG], "retries", None),
        ] {
            assert_eq!(suggest(known, word), near, "{word}");
        }
    }

    #[test]
    fn no_word_means_two_options() {
        for known in [
            &[OPTIONS, TASK][..],
            &[OPTIONS, OPERATOR, SENSOR],
            &[OPTIONS, SENSOR, SENSOR_FN],
            &[DAG],
            &[BRANCH],
        ] {
            let mut words: Vec<_> = all(known)
                .flat_map(|key| std::iter::once(key.name).chain(key.aliases.iter().copied()))
                .collect();
            let count = words.len();
            words.sort_unstable();
            words.dedup();
            assert_eq!(words.len(), count);
        }
    }
}
