//! What makes two versions of a dag the same: ids, edges, options, operators and types.

use crate::hash::Hash;
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

/// A hash over everything that decides how a run goes. Texts for people (docs, tooltips, labels) do not count.
pub(super) fn of(dag: &CompiledDag) -> String {
    let mut hash = Hash::default();
    let mut add = |text: &str| hash.add(text);
    add(dag.id.as_str());
    add(&dag.timetable.identity());
    let s = &dag.settings;
    add(&settings_of(s));
    if let Some(params) = &s.params {
        add(&params.schema.to_string());
        add(&params.defaults.to_string());
    }
    for task in &dag.tasks {
        let t = &task.settings;
        add(task.id.as_str());
        add(task.operator.name());
        add(task.operator.output_type());
        add(&format!(
            "{:?} {:?} {} {} {} {} {} {} {} {} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
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
            task.role,
            task.scope,
            task.branching,
            t.executor,
        ));
        for asset in t.outlets.iter().chain(t.inlets.iter()) {
            add(asset.key().as_str());
        }
        // Only where they are said, so that other dags keep their version.
        let terms = (t.isolation, &t.executor_config);
        let terms = (terms != (None, &None)).then(|| format!("{terms:?}"));
        for rare in t.sensor.iter().map(|sensor| format!("{sensor:?}")).chain(terms) {
            add(&rare);
        }
        for up in &task.upstream {
            add(dag.task(*up).id.as_str());
        }
        for input in &task.inputs {
            match input {
                InputRef::Output(from) | InputRef::Collected(from) => add(dag.task(*from).id.as_str()),
                InputRef::Element(scope) => add(dag.scope(*scope).owner.as_str()),
            }
        }
    }
    for scope in &dag.scopes {
        add(scope.owner.as_str());
        add(&format!("{:?}", scope.expand));
    }
    hash.hex(32)
}
