//! What makes two versions of a dag the same: ids, edges, options, operators and types.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::dag::{DEFAULT_QUEUE, Role, TaskSettings};
use crate::hash::Hash;
use crate::map::HashMap;
use crate::operator::InputRef;

use super::{CompiledDag, DagSettings};

fn settings_of(s: &DagSettings) -> String {
    format!(
        "{} {:?} {} {} {:?} {} {}",
        s.timezone,
        s.restriction,
        s.max_active_runs,
        s.max_active_tasks,
        s.dagrun_timeout,
        s.fail_fast,
        s.max_consecutive_failed_dag_runs
    )
}

/// The options of a task, as far as they decide how a run goes.
fn settings_of_task(t: &TaskSettings) -> String {
    let mut text = format!(
        "{:?} {:?} {} {} {} {} {} {} {} {} {:?} {:?} {:?} {:?}",
        t.retry,
        t.timeout,
        t.pool,
        t.pool_slots,
        t.priority_weight,
        t.weight_rule,
        t.queue,
        t.trigger_rule,
        t.depends_on_past,
        t.wait_for_downstream,
        t.max_active_tis_per_dag,
        t.max_active_tis_per_dagrun,
        (t.start_date, t.end_date, t.do_xcom_push),
        t.executor,
    );
    // Only where they are said, so that other dags keep their version.
    if (t.isolation, &t.executor_config) != (None, &None) {
        let _ = write!(text, " {:?}", (t.isolation, &t.executor_config));
    }
    // A queue decides more if it is the task's own; said only where one would think otherwise.
    if t.names_queue == (t.queue == DEFAULT_QUEUE) {
        let _ = write!(text, " {}", t.names_queue);
    }
    if let Some(sensor) = &t.sensor {
        let _ = write!(text, " {sensor:?}");
    }
    text
}

/// Numbers the options of tasks in the order in which they first occur: tasks with the same have the same number.
#[derive(Default)]
struct Kinds {
    by_place: HashMap<*const TaskSettings, usize>,
    by_text: HashMap<String, usize>,
}

impl Kinds {
    /// Adds the number of these options, and what they are if that was not said yet.
    fn add(&mut self, settings: &Arc<TaskSettings>, hash: &mut Hash) {
        if let Some(number) = self.by_place.get(&Arc::as_ptr(settings)) {
            return hash.count(*number);
        }
        let text = settings_of_task(settings);
        let next = self.by_text.len();
        let number = *self.by_text.entry(text).or_insert_with_key(|text| {
            hash.add(text);
            next
        });
        hash.count(number);
        self.by_place.insert(Arc::as_ptr(settings), number);
    }
}

/// A hash over everything that decides how a run goes. Texts for people (docs, tooltips, labels) do not count.
pub(super) fn of(dag: &CompiledDag) -> String {
    let mut hash = Hash::default();
    hash.add(dag.id.as_str());
    hash.add(&dag.timetable.identity());
    let s = &dag.settings;
    hash.add(&settings_of(s));
    if let Some(params) = &s.params {
        hash.add(&params.schema.to_string());
        hash.add(&params.defaults.to_string());
    }
    // Only where something is said, so that other dags keep their version.
    let templates = s.templates.identity();
    if !templates.is_empty() {
        hash.add(&templates);
    }
    let mut kinds = Kinds::default();
    hash.count(dag.tasks.len());
    for task in &dag.tasks {
        hash.add(task.id.as_str());
        hash.add(task.operator.name());
        hash.add(task.operator.output_type());
        kinds.add(&task.settings, &mut hash);
        let is_special = task.role != Role::Work || task.scope.is_some() || task.branching.is_some();
        hash.count(usize::from(is_special));
        if is_special {
            hash.add(&format!("{:?} {:?} {:?}", task.role, task.scope, task.branching));
        }
        for assets in [&task.settings.outlets, &task.settings.inlets] {
            hash.count(assets.len());
            assets.iter().for_each(|asset| hash.add(asset.key().as_str()));
        }
        hash.count(task.upstream.len());
        for up in &task.upstream {
            hash.count(up.index());
        }
        hash.count(task.inputs.len());
        for input in &task.inputs {
            match input {
                InputRef::Output(from) | InputRef::Collected(from) => hash.add(dag.task(*from).id.as_str()),
                InputRef::Element(scope) => hash.add(dag.scope(*scope).owner.as_str()),
            }
        }
    }
    for scope in &dag.scopes {
        hash.add(scope.owner.as_str());
        hash.add(&format!("{:?}", scope.expand));
    }
    hash.hex(32)
}
