//! Setups and teardowns: which setups a task needs, and which tasks decide how a run ends.

use crate::dag::Role;
use crate::id::TaskIdx;

use super::CompiledDag;

/// The tasks whose states make the state of the run: those with nothing after them, where teardowns do not count
/// unless they are told to.
pub(super) fn deciding_leaves(dag: &CompiledDag) -> Vec<TaskIdx> {
    let ignorable = |task: &TaskIdx| dag.task(*task).role == Role::Teardown { on_failure_fail_dagrun: false };
    let leaf = |task: &TaskIdx| !ignorable(task) && dag.task(*task).downstream.iter().all(ignorable);
    let leaves: Vec<TaskIdx> = dag.indices().filter(leaf).collect();
    if !leaves.is_empty() {
        return leaves;
    }
    dag.indices().filter(|task| dag.task(*task).downstream.is_empty()).collect()
}

/// Gives each task the setups further up that it needs: those without any teardown, or with one that comes after the
/// task. Direct upstream setups are left to its trigger rule.
pub(super) fn link(dag: &mut CompiledDag) {
    let setups: Vec<TaskIdx> = dag.indices().filter(|task| dag.task(*task).role == Role::Setup).collect();
    let mut needed: Vec<Vec<TaskIdx>> = vec![Vec::new(); dag.tasks.len()];
    for setup in setups {
        let teardowns: Vec<TaskIdx> =
            dag.task(setup).downstream.iter().copied().filter(|task| dag.task(*task).is_teardown()).collect();
        let mut before_teardown = vec![teardowns.is_empty(); dag.tasks.len()];
        for teardown in teardowns {
            dag.ancestors(teardown).into_iter().for_each(|task| before_teardown[task.index()] = true);
        }
        for task in dag.descendants(setup) {
            let compiled = dag.task(task);
            if before_teardown[task.index()] && !compiled.is_teardown() && !compiled.upstream.contains(&setup)
            {
                needed[task.index()].push(setup);
            }
        }
    }
    let mut needed_by: Vec<Vec<TaskIdx>> = vec![Vec::new(); dag.tasks.len()];
    for (task, setups) in dag.indices().zip(&needed) {
        setups.iter().for_each(|setup| needed_by[setup.index()].push(task));
    }
    for ((task, setups), needed_by) in dag.tasks.iter_mut().zip(needed).zip(needed_by) {
        task.setups = setups.into();
        task.needed_by = needed_by.into();
    }
}
