//! The checks: options of the dag, options of each task, rules between tasks, mappings.

use std::sync::Arc;

use chrono::{DateTime, Datelike as _, Utc};
use chrono_tz::Tz;
use serde_json::Value;

use crate::dag::{
    DagDef, DagDefaults, DagOptions, ParamsSpec, Problem, ProblemKind, Role, TaskOptions, TaskSettings, When,
};
use crate::map::HashMap;
use crate::operator::InputRef;
use crate::timetable::{Schedule, TimeRestriction, Timetable, parse_zone};
use crate::trigger_rule::TriggerRule;

use super::{CompiledDag, DEFAULT_MAX_ACTIVE_RUNS, DEFAULT_MAX_ACTIVE_TASKS, DagSettings};

/// The longest tag, in characters.
const MAX_TAG_CHARS: usize = 100;

/// The options of the dag, and its timetable.
pub(super) fn options(
    def: &DagDef,
    problems: &mut Vec<Problem>,
) -> Option<(DagSettings, Arc<dyn Timetable>)> {
    let place = def.place;
    let before = problems.len();
    let mut report = |kind| problems.push(Problem { kind, place });
    if let Err(error) = crate::id::check_id(&def.id) {
        report(ProblemKind::BadId { what: "dag", error });
    }
    let o = &def.options;
    let zone = match o.timezone.as_deref().or(o.inherited().timezone.as_deref()).map(parse_zone).transpose() {
        Ok(zone) => zone.unwrap_or(Tz::UTC),
        Err(error) => {
            report(ProblemKind::BadTimezone(error.to_string()));
            Tz::UTC
        }
    };
    let timetable = o.schedule.clone().unwrap_or_else(Schedule::manual).timetable(zone);
    let timetable = timetable.map_err(|error| report(ProblemKind::BadSchedule(error.to_string()))).ok();
    let bad = |option, why: String| ProblemKind::BadOption { option, of: format!("dag `{}`", def.id), why };
    let mut date = |option, when: &Option<When>| match when {
        None => None,
        Some(When::At(at)) if !crate::time::YEARS.contains(&at.year()) => {
            let (first, last) = (crate::time::YEARS.start(), crate::time::YEARS.end());
            report(bad(option, format!("{at} is outside the years {first} to {last}")));
            None
        }
        Some(When::At(at)) => Some(*at),
        Some(When::Text(text)) => match crate::time::parse_moment(text, zone) {
            Ok(at) => Some(at),
            Err(error) => {
                report(bad(option, error.to_string()));
                None
            }
        },
    };
    let earliest = date("start_date", &o.start_date);
    let latest = date("end_date", &o.end_date);
    for (option, why) in wrong_numbers(o, earliest, latest, timetable.as_deref()) {
        report(bad(option, why));
    }
    if let Some(error) = params_problem(o, timetable.as_deref()) {
        report(ProblemKind::BadParams(error));
    }
    let deadlines = super::deadline::of_runs(def, zone, &mut report);
    let restriction = TimeRestriction { earliest, latest, catchup: o.catchup };
    let settings = DagSettings { deadlines, ..dag_settings(def, zone, restriction) };
    let timetable = timetable.filter(|_| problems.len() == before)?;
    Some((settings, timetable))
}

fn wrong_numbers(
    o: &DagOptions,
    earliest: Option<DateTime<Utc>>,
    latest: Option<DateTime<Utc>>,
    timetable: Option<&dyn Timetable>,
) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let mut wrong = |option, why: &str| found.push((option, why.to_owned()));
    if o.max_active_runs == Some(0) {
        wrong("max_active_runs", "0 would never start a run; write at least 1");
    }
    if o.max_active_tasks == Some(0) {
        wrong("max_active_tasks", "0 would never start a task; write at least 1");
    }
    if o.dagrun_timeout.is_some_and(|timeout| timeout.is_zero()) {
        wrong("dagrun_timeout", "zero would fail every run at once; leave it out for no limit");
    }
    if let (Some(start), Some(end)) = (earliest, latest)
        && end < start
    {
        wrong("end_date", "it lies before the start date");
    }
    if let Some(tag) = o.tags.iter().find(|tag| tag.chars().count() > MAX_TAG_CHARS || tag.is_empty()) {
        wrong("tags", &format!("the tag `{tag}` must have 1 to {MAX_TAG_CHARS} characters"));
    }
    if let Some(timetable) = timetable {
        if earliest.is_none() && o.catchup && timetable.can_be_scheduled() {
            wrong("catchup", "it needs a start date to begin at");
        }
        if let (Some(most), Some(limit)) = (timetable.active_runs_limit(), o.max_active_runs)
            && limit > most
        {
            wrong(
                "max_active_runs",
                &format!("the schedule `{}` allows {most} at most", timetable.summary()),
            );
        }
    }
    found
}

fn params_problem(o: &DagOptions, timetable: Option<&dyn Timetable>) -> Option<String> {
    if let Some(error) = &o.params_error {
        return Some(format!("the defaults cannot be written as JSON: {error}"));
    }
    let params = o.params.as_ref()?;
    if let Err(error) = jsonschema::validator_for(&params.schema) {
        return Some(format!("the schema is no JSON Schema: {error}"));
    }
    // Without a schedule somebody triggers each run and can bring what has no default.
    if timetable.is_some_and(Timetable::can_be_scheduled) {
        return merge_params(Some(params), None)
            .err()
            .map(|error| format!("the defaults do not fit: {error}"));
    }
    None
}

/// The defaults with `conf` over them, checked.
pub(super) fn merge_params(params: Option<&ParamsSpec>, conf: Option<&Value>) -> Result<Value, String> {
    let mut merged =
        params.map_or_else(|| Value::Object(serde_json::Map::new()), |params| params.defaults.clone());
    match (conf, &mut merged) {
        (None | Some(Value::Null), _) => {}
        (Some(Value::Object(conf)), Value::Object(merged)) => {
            conf.iter().for_each(|(key, value)| {
                merged.insert(key.clone(), value.clone());
            });
        }
        (Some(conf @ Value::Object(_)), merged) => *merged = conf.clone(),
        (Some(other), _) => return Err(format!("`conf` must be a JSON object, not `{other}`")),
    }
    let Some(params) = params else { return Ok(merged) };
    let validator = jsonschema::validator_for(&params.schema).map_err(|error| error.to_string())?;
    let errors: Vec<String> = validator
        .iter_errors(&merged)
        .map(|error| match error.instance_path().to_string() {
            path if path.is_empty() => error.to_string(),
            path => format!("`{}`: {error}", path.trim_start_matches('/').replace('/', ".")),
        })
        .collect();
    if errors.is_empty() { Ok(merged) } else { Err(errors.join("; ")) }
}

fn dag_settings(def: &DagDef, timezone: Tz, restriction: TimeRestriction) -> DagSettings {
    let o = &def.options;
    let owner = o.owner.as_deref().unwrap_or("airflow");
    let mut owners: Vec<&str> = Vec::new();
    for task in &def.definition.tasks {
        let owner = task.options.owner.as_deref().unwrap_or(owner);
        if !owners.contains(&owner) {
            owners.push(owner);
        }
    }
    if owners.is_empty() {
        owners.push(owner);
    }
    DagSettings {
        timezone,
        restriction,
        max_active_runs: o
            .max_active_runs
            .or(o.inherited().max_active_runs)
            .unwrap_or(DEFAULT_MAX_ACTIVE_RUNS),
        max_active_tasks: o
            .max_active_tasks
            .or(o.inherited().max_active_tasks)
            .unwrap_or(DEFAULT_MAX_ACTIVE_TASKS),
        dagrun_timeout: o.dagrun_timeout,
        params: o.params.clone(),
        tags: o.tags.clone(),
        owners: owners.join(", "),
        description: o.description.clone(),
        doc: o.doc.clone(),
        display_name: o.display_name.clone(),
        paused_at_creation: o.paused_at_creation,
        fail_fast: o.fail_fast,
        callbacks: o.callbacks.clone(),
        deadlines: Vec::new(),
        max_consecutive_failed_dag_runs: o.max_consecutive_failed_dag_runs,
        templates: Arc::new(o.templates.clone()),
    }
}

/// Everything that the options of a task after all defaults come from, as far as tasks differ in it: its own options,
/// its group, whether it is a sensor, whether it is a teardown.
type Kind = (*const TaskOptions, Option<usize>, bool, bool);

/// The options of each task after all defaults.
pub(super) fn tasks(def: &DagDef, problems: &mut Vec<Problem>) -> Vec<Arc<TaskSettings>> {
    let mut from_dag = def.options.default_args.clone();
    from_dag.owner = from_dag.owner.or_else(|| def.options.owner.clone());
    let mut known: HashMap<Kind, Arc<TaskSettings>> = HashMap::default();
    let mut all = Vec::with_capacity(def.definition.tasks.len());
    for task in &def.definition.tasks {
        let templates = task.description.templates.iter().flat_map(|field| &field.sources);
        for template in templates.chain(&task.description.input_templates) {
            if let Err(error) = def.options.templates.check(template) {
                let kind = ProblemKind::BadTemplate { task: task.id.to_string(), error: error.to_string() };
                problems.push(Problem { kind, place: task.place });
            }
        }
        let is_sensor = task.operator.is_sensor();
        let is_teardown = matches!(task.role, Role::Teardown { .. });
        let kind: Kind = (Arc::as_ptr(&task.options), task.group, is_sensor, is_teardown);
        if let Some(settings) = known.get(&kind) {
            all.push(Arc::clone(settings));
            continue;
        }
        let before = problems.len();
        let mut options = TaskOptions::clone(&task.options);
        let names_queue = options.queue.is_some();
        let mut group = task.group;
        while let Some(index) = group {
            let group_def = &def.definition.groups[index];
            options = options.or(&group_def.options.defaults);
            group = group_def.parent;
        }
        let mut options = options.or(&from_dag).or(&inherited(def.options.inherited(), is_sensor));
        // A teardown waits for its setups, whatever rule was asked for.
        if is_teardown {
            options.trigger_rule = Some(TriggerRule::AllDoneSetupSuccess);
        }
        for (option, why) in wrong_options(&options) {
            let kind = ProblemKind::BadOption { option, of: format!("task `{}`", task.id), why: why.into() };
            problems.push(Problem { kind, place: task.place });
        }
        for asset in options.outlets.iter().chain(&options.inlets).flatten() {
            if let Err(error) = asset.check() {
                let kind = ProblemKind::BadAsset { task: task.id.to_string(), error };
                problems.push(Problem { kind, place: task.place });
            }
        }
        let settings = if is_sensor { TaskSettings::of_sensor(options) } else { TaskSettings::from(options) };
        let settings = Arc::new(TaskSettings { names_queue, ..settings });
        // What is wrong is said of each task.
        if problems.len() == before {
            known.insert(kind, Arc::clone(&settings));
        }
        all.push(settings);
    }
    all
}

/// What the application says of tasks. The `timeout` of tasks is that of an attempt, which a sensor has beside its own.
fn inherited(defaults: &DagDefaults, is_sensor: bool) -> TaskOptions {
    if !is_sensor {
        return defaults.task.clone();
    }
    let mut task = defaults.task.clone();
    task.execution_timeout = task.execution_timeout.or(task.timeout.take());
    defaults.sensor.clone().or(&task)
}

fn wrong_options(o: &TaskOptions) -> Vec<(&'static str, &'static str)> {
    let mut found = Vec::new();
    if o.pool_slots == Some(0) {
        found.push(("pool_slots", "a task takes at least one slot"));
    }
    if o.timeout.is_some_and(|timeout| timeout.is_zero()) {
        found.push(("timeout", "zero would fail every attempt at once; leave it out for no limit"));
    }
    if o.execution_timeout.is_some_and(|timeout| timeout.is_zero()) {
        found.push(("execution_timeout", "zero would fail every attempt at once; leave it out for no limit"));
    }
    if o.poke_interval.is_some_and(|pause| pause.is_zero()) {
        found.push((
            "poke_interval",
            "without a pause the sensor would poke all the time; write at least `1s`",
        ));
    }
    if o.max_wait.is_some_and(|pause| pause.is_zero()) {
        found.push(("max_wait", "zero would leave no pause between two pokes; leave it out for no limit"));
    }
    if o.soft_fail == Some(true) && o.never_fail == Some(true) {
        found.push(("soft_fail", "`soft_fail` and `never_fail` exclude each other; choose one"));
    }
    if o.retry_exponential_backoff.is_some_and(|factor| !factor.is_finite() || factor < 0.0) {
        found.push(("retry_exponential_backoff", "the factor must be a number of at least 0"));
    }
    if o.max_active_tis_per_dag == Some(0) {
        found.push(("max_active_tis_per_dag", "0 would never start the task; write at least 1"));
    }
    if o.max_active_tis_per_dagrun == Some(0) {
        found.push(("max_active_tis_per_dagrun", "0 would never start the task; write at least 1"));
    }
    if o.pool.as_ref().is_some_and(String::is_empty) {
        found.push(("pool", "the name is empty"));
    }
    if o.queue.as_ref().is_some_and(String::is_empty) {
        found.push(("queue", "the name is empty"));
    }
    found
}

/// Rules between tasks: setups, `fail_fast`.
pub(super) fn rules(dag: &CompiledDag, problems: &mut Vec<Problem>) {
    for task in &dag.tasks {
        let rule = task.settings.trigger_rule;
        if task.is_teardown() {
            continue;
        }
        if dag.settings.fail_fast && rule != TriggerRule::AllSuccess {
            let kind = ProblemKind::FailFastRule { task: task.id.to_string(), rule: rule.to_string() };
            problems.push(Problem { kind, place: task.place });
        }
        if rule == TriggerRule::AllSuccess {
            continue;
        }
        let setup = task.upstream.iter().find(|up| dag.task(**up).role == Role::Setup);
        if let Some(setup) = setup {
            let kind = ProblemKind::SetupRule {
                task: task.id.to_string(),
                setup: dag.task(*setup).id.to_string(),
                rule: rule.to_string(),
            };
            problems.push(Problem { kind, place: task.place });
        }
    }
}

/// Mappings: none inside another, no element outside of its own.
pub(super) fn mappings(dag: &CompiledDag, problems: &mut Vec<Problem>) {
    for task in &dag.tasks {
        if let Some((inner, outer)) = nested(dag, task) {
            problems.push(Problem { kind: ProblemKind::NestedMapping { inner, outer }, place: task.place });
        }
        for input in &task.inputs {
            let outside = match input {
                InputRef::Element(scope) if task.scope != Some(*scope) => {
                    Some(format!("an element of `{}`", dag.scope(*scope).owner))
                }
                InputRef::Output(from) if leaves_mapping(dag, *from, task) => {
                    Some(format!("the result of `{}`", dag.task(*from).id))
                }
                _ => None,
            };
            if let Some(what) = outside {
                let kind = ProblemKind::OutsideMapping { task: task.id.to_string(), what };
                problems.push(Problem { kind, place: task.place });
            }
        }
    }
}

/// Whether `task` takes a single result of a task that has many.
fn leaves_mapping(dag: &CompiledDag, from: crate::id::TaskIdx, task: &super::CompiledTask) -> bool {
    let scope = dag.task(from).scope;
    scope.is_some() && (scope != task.scope || scope.is_some_and(|scope| !dag.scope(scope).is_group))
}

/// A mapped group around the mapping of this task.
fn nested(dag: &CompiledDag, task: &super::CompiledTask) -> Option<(String, String)> {
    let scope = task.scope.map(|scope| dag.scope(scope))?;
    let mapped_groups = |mut at: Option<usize>| {
        let mut found = Vec::new();
        while let Some(index) = at {
            if dag.groups[index].is_mapped {
                found.push(dag.groups[index].id.clone());
            }
            at = dag.groups[index].parent;
        }
        found
    };
    let around = mapped_groups(task.group);
    match (scope.is_group, around.as_slice()) {
        (false, [outer, ..]) => Some((task.id.to_string(), outer.clone())),
        (true, [inner, outer, ..]) => Some((inner.clone(), outer.clone())),
        _ => None,
    }
}
