//! Laws that every run keeps, whatever its dag, its outcomes and the order in which its attempts end: random dags with
//! retries, skips, branches, mappings, setups, teardowns and looks at the run before, run to their end by the real
//! scheduler.

#[path = "conformance/engine.rs"]
#[expect(dead_code, reason = "the conformance tests use more of it")]
mod engine;
#[path = "conformance/script.rs"]
#[expect(dead_code, reason = "the conformance tests use more of it")]
mod script;

use std::collections::BTreeMap;
use std::time::Duration;

use airflow_core::compile::CompiledDag;
use airflow_core::dag::{Dag, DagDef, Node, Role, Spec, TaskExt, TaskOptions};
use airflow_core::id::{RunPk, TaskIdx};
use airflow_core::operator::{Description, In, IntoIn, Operator, Result, TaskContext};
use airflow_core::plan::RunView;
use airflow_core::state::{Counts, RunState, TaskState};
use airflow_core::trigger_rule::TriggerRule;
use proptest::prelude::*;
use serde_json::Value;

use engine::{Keeps, Order, Sim, block_on};

const RULES: &[TriggerRule] = &[
    TriggerRule::AllSuccess,
    TriggerRule::AllFailed,
    TriggerRule::AllDone,
    TriggerRule::AllDoneMinOneSuccess,
    TriggerRule::AllSkipped,
    TriggerRule::OneSuccess,
    TriggerRule::OneFailed,
    TriggerRule::OneDone,
    TriggerRule::NoneFailed,
    TriggerRule::NoneFailedMinOneSuccess,
    TriggerRule::NoneSkipped,
    TriggerRule::Always,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Branch,
    ShortCircuit,
    Mapped(usize),
}

/// What part a task plays beside its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Work,
    Setup,
    /// Of the setups directly before it; `true` if its failure fails the run.
    Teardown(bool),
}

/// A task of a random dag; its upstream tasks have lower numbers.
#[derive(Debug, Clone)]
struct Plan {
    kind: Kind,
    part: Part,
    upstream: Vec<usize>,
    rule: TriggerRule,
    retries: u32,
    looks_back: bool,
    outcomes: Vec<&'static str>,
}

/// Plays its outcomes, each instance from another place on.
struct Plays {
    outcomes: Vec<Value>,
    element: Option<In<usize>>,
}

impl Plays {
    fn outcome(&self, cx: &TaskContext) -> Result<Value> {
        let begin = cx.map_index().unwrap_or(0) as usize;
        let turned: Vec<Value> =
            self.outcomes.iter().cycle().skip(begin).take(self.outcomes.len()).cloned().collect();
        script::play(&turned, cx.try_number())
    }
}

impl Operator for Plays {
    type Output = usize;
    const NAME: &'static str = "plays";

    fn describe(&self, description: &mut Description) {
        self.element.iter().for_each(|element| description.input(element));
    }

    async fn execute(&self, cx: &TaskContext) -> Result<usize> {
        self.outcome(cx)?;
        Ok(self.element.as_ref().map(|element| element.get(cx)).transpose()?.unwrap_or(0))
    }
}

/// Plays its outcomes, and follows the direct downstream tasks with even numbers.
struct Chooses(Plays, Vec<String>);

impl Operator for Chooses {
    type Output = Vec<String>;
    const NAME: &'static str = "chooses";

    fn describe(&self, _: &mut Description) {}

    async fn execute(&self, cx: &TaskContext) -> Result<Vec<String>> {
        self.0.outcome(cx)?;
        Ok(self.1.clone())
    }
}

/// Plays its outcomes, and says no.
struct Refuses(Plays);

impl Operator for Refuses {
    type Output = bool;
    const NAME: &'static str = "refuses";

    fn describe(&self, _: &mut Description) {}

    async fn execute(&self, cx: &TaskContext) -> Result<bool> {
        self.0.outcome(cx)?;
        Ok(false)
    }
}

fn any_task(number: usize) -> impl Strategy<Value = Plan> {
    let kind = prop_oneof![
        6 => Just(Kind::Plain),
        1 => Just(Kind::Branch),
        1 => Just(Kind::ShortCircuit),
        2 => (0..4usize).prop_map(Kind::Mapped),
    ];
    let part = prop_oneof![
        6 => Just(Part::Work),
        1 => Just(Part::Setup),
        1 => any::<bool>().prop_map(Part::Teardown),
    ];
    let outcome = prop_oneof![4 => Just("success"), 2 => Just("fail"), 1 => Just("skip"), 1 => Just("fail_without_retry")];
    let upstream = proptest::collection::btree_set(0..number.max(1), 0..=number.min(4));
    (
        (kind, part),
        upstream,
        proptest::sample::select(RULES),
        0..3u32,
        proptest::bool::weighted(0.1),
        proptest::collection::vec(outcome, 1..4),
    )
        .prop_map(move |((kind, part), upstream, rule, retries, looks_back, outcomes)| Plan {
            kind: if part == Part::Work { kind } else { Kind::Plain },
            part,
            upstream: if number == 0 { Vec::new() } else { upstream.into_iter().collect() },
            rule,
            retries,
            looks_back,
            outcomes,
        })
}

fn any_dag() -> impl Strategy<Value = Vec<Plan>> {
    let tasks = (1..10usize).prop_flat_map(|count| (0..count).map(any_task).collect::<Vec<_>>());
    tasks.prop_map(|mut plans| {
        for number in 0..plans.len() {
            // What follows a setup directly must use the default rule.
            if plans[number].upstream.iter().any(|up| plans[*up].part == Part::Setup) {
                plans[number].rule = TriggerRule::AllSuccess;
            }
        }
        plans
    })
}

fn dag_of(plans: &[Plan], fail_fast: bool) -> DagDef {
    let def =
        DagDef::new("d").schedule("@daily").start_date("2024-01-01").catchup(true).max_active_tasks(1000);
    def.fail_fast(fail_fast).default_args(TaskOptions::new().retry_delay(Duration::from_secs(30))).define(
        |d| {
            let mut nodes: Vec<Node<'_>> = Vec::new();
            for number in 0..plans.len() {
                let node = add(d, plans, &nodes, number);
                for up in &plans[number].upstream {
                    d.order(nodes[*up] >> node);
                }
                nodes.push(node);
            }
        },
    )
}

fn add<'d>(d: &'d Dag, plans: &[Plan], nodes: &[Node<'d>], number: usize) -> Node<'d> {
    let this = &plans[number];
    let script_of =
        |element| Plays { outcomes: this.outcomes.iter().map(|word| (*word).into()).collect(), element };
    match this.kind {
        Kind::Plain => {
            let spec = with_options(script_of(None), this, number);
            let setups: Vec<Node<'d>> = this
                .upstream
                .iter()
                .filter(|up| plans[**up].part == Part::Setup)
                .map(|up| nodes[*up])
                .collect();
            let spec = match this.part {
                Part::Work => spec,
                Part::Setup => spec.setup(),
                Part::Teardown(_) => spec.teardown_of(setups),
            };
            let decides = this.part == Part::Teardown(true);
            d.add(if decides { spec.on_failure_fail_dagrun() } else { spec }).node()
        }
        Kind::Branch => {
            let even = (number + 1..plans.len())
                .filter(|other| other % 2 == 0 && plans[*other].upstream.contains(&number));
            let choice = Chooses(script_of(None), even.map(|other| format!("t{other}")).collect());
            let choice = d.add(with_options(choice, this, number));
            d.branch_by_id(choice);
            choice.node()
        }
        Kind::ShortCircuit => {
            d.short_circuit(d.add(with_options(Refuses(script_of(None)), this, number))).node()
        }
        Kind::Mapped(length) => {
            let list: Vec<usize> = (0..length).collect();
            d.map(list, |element| with_options(script_of(Some(element.into_in())), this, number)).node()
        }
    }
}

fn with_options<O: Operator>(operator: O, plan: &Plan, number: usize) -> Spec<O> {
    let spec = operator.id(format!("t{number}")).trigger_rule(plan.rule).retries(plan.retries);
    spec.depends_on_past(plan.looks_back)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Goal: the laws of a run. Method: random dags, run attempt by attempt in a random order, looked at after every
    /// step.
    #[test]
    fn every_run_keeps_the_laws(
        mut plans in any_dag(),
        fail_fast in proptest::bool::weighted(0.2),
        picks in proptest::collection::vec(any::<usize>(), 1..40),
        slots in 1..6usize,
    ) {
        if fail_fast {
            for task in &mut plans {
                task.rule = TriggerRule::AllSuccess;
            }
        }
        block_on(async {
            let mut sim = Sim::new(dag_of(&plans, fail_fast), Order { slots, picked: true }, 1024, Keeps::Memory).await.expect("it compiles");
            for day in ["2024-01-01", "2024-01-02"] {
                let date = format!("{day}T00:00:00Z").parse().expect("a date");
                sim.create(&format!("scheduled__{day}"), date).await;
            }
            let mut picks = picks.iter().cycle();
            let pick = |count: usize| picks.next().expect("it never ends") % count;
            sim.run_watched(pick, views_are_right).await;
            for run in sim.runs().await {
                let looks_back = plans.iter().any(|plan| plan.looks_back);
                assert!(run.state.is_finished() || looks_back, "run {} hangs", run.run_id);
                let view = sim.view(run.pk).await;
                events_are_legal(&sim, run.pk, &view).await;
                if fail_fast && run.state.is_finished() {
                    assert!(view.all().all(|(_, ti)| ti.state.is_finished()), "a stopped run leaves nothing open");
                } else if run.state.is_finished() {
                    ends_are_allowed(&plans, &sim.dag, &view);
                }
            }
        });
    }
}

/// What the scheduler keeps up to date is what a count from scratch says, and what the store has.
async fn views_are_right(sim: &Sim) {
    for view in sim.views() {
        assert!(view.counts_are_right(), "the counts of {} are wrong", view.run.run_id);
        let stored = sim.view(view.run.pk).await;
        assert_eq!(view.run, stored.run);
        let mine: Vec<_> = view.all().collect();
        let theirs: Vec<_> = stored.all().collect();
        assert_eq!(mine, theirs, "the scheduler and the store differ");
    }
}

/// The events of each instance have epochs 1, 2, 3, .., each begins where the one before ended, and each is legal.
async fn events_are_legal(sim: &Sim, run: RunPk, view: &RunView) {
    let mut last: BTreeMap<(String, i32), (u32, TaskState)> = BTreeMap::new();
    for event in sim.store.events(run, None).await.expect("the store does not fail") {
        let key = (event.task_id.to_string(), event.map_index.0);
        let (epoch, state) = last.get(&key).copied().unwrap_or((0, TaskState::None));
        assert_eq!((event.epoch, event.from), (epoch + 1, state), "{key:?}");
        let change = event.from.on(event.event).expect("a legal event");
        assert_eq!(change.to(), event.to);
        last.insert(key, (event.epoch, event.to));
    }
    for (key, ti) in view.all() {
        let name = (sim.dag.task(key.task).id.to_string(), key.map.0);
        let known = last.remove(&name).unwrap_or((0, TaskState::None));
        assert_eq!((ti.epoch, ti.state), known, "{name:?}");
    }
    assert!(last.is_empty(), "events of instances that do not exist: {last:?}");
}

/// Every instance has ended as its rule allows. A branch may overwrite what has ended, so what comes after one is
/// only held to have ended.
fn ends_are_allowed(plans: &[Plan], dag: &CompiledDag, view: &RunView) {
    let chooses = |task: TaskIdx| matches!(plans[task.index()].kind, Kind::Branch | Kind::ShortCircuit);
    for (key, ti) in view.all() {
        assert!(ti.state.is_finished(), "{} is {}", dag.task(key.task).id, ti.state);
        if dag.ancestors(key.task).into_iter().any(chooses) {
            continue;
        }
        let empty = plans[key.task.index()].kind == Kind::Mapped(0);
        let compiled = dag.task(key.task);
        let rule = compiled.settings.trigger_rule;
        let counts = |tasks: &[TaskIdx]| {
            let mut all = Counts::default();
            tasks.iter().for_each(|task| all.merge(view.task(*task).own()));
            all
        };
        let direct: Vec<TaskIdx> = compiled.upstream.to_vec();
        let is_setup = |task: &TaskIdx| dag.task(*task).role == Role::Setup;
        let torn_down: Vec<TaskIdx> = direct.iter().copied().filter(is_setup).collect();
        let up = (counts(&direct), counts(&torn_down));
        // A teardown runs although setups further up failed, and so does what waits for nothing.
        let minds = !compiled.is_teardown() && rule != TriggerRule::Always;
        let setups = if minds { counts(&compiled.setups) } else { Counts::default() };
        let (all, ready, left_out, _, broken) = numbers(&setups);
        let allowed = match (ti.state, ti.data.try_number) {
            (TaskState::Skipped, 0) => empty || left_out > 0 || may_skip(rule, &up),
            (TaskState::UpstreamFailed, 0) => broken > 0 || may_fail(rule, &up),
            (TaskState::Success | TaskState::Failed | TaskState::Skipped, tries) => {
                let most = compiled.settings.retry.retries + 1;
                (1..=most).contains(&tries) && may_run(rule, &up) && ready == all
            }
            _ => false,
        };
        assert!(
            allowed,
            "{} {} ended {:?} under {up:?}",
            dag.task(key.task).id,
            rule,
            (ti.state, ti.data.try_number)
        );
    }
}

fn numbers(up: &Counts) -> (u32, u32, u32, u32, u32) {
    let of = |state| up[state];
    let (failed, upstream_failed) = (of(TaskState::Failed), of(TaskState::UpstreamFailed));
    (up.total(), of(TaskState::Success), of(TaskState::Skipped), failed, failed + upstream_failed)
}

/// The instances directly before one, and the setups among them.
type Up = (Counts, Counts);

fn may_run(rule: TriggerRule, (up, setups): &Up) -> bool {
    use TriggerRule as R;
    let (n, success, skipped, failed, bad) = numbers(up);
    let (torn_down, set_up, ..) = numbers(setups);
    n == 0
        || match rule {
            R::AllSuccess => success == n,
            R::AllFailed => bad == n,
            R::AllDone | R::Always => true,
            R::AllDoneMinOneSuccess => success > 0 && skipped == 0,
            R::AllSkipped => skipped == n,
            R::OneSuccess => success > 0,
            R::OneFailed => bad > 0,
            R::OneDone => success + failed > 0,
            R::NoneFailed => bad == 0,
            R::NoneFailedMinOneSuccess => bad == 0 && success > 0,
            R::NoneSkipped => skipped == 0,
            R::AllDoneSetupSuccess => torn_down == 0 || set_up > 0,
        }
}

fn may_skip(rule: TriggerRule, (up, setups): &Up) -> bool {
    use TriggerRule as R;
    let (n, success, skipped, failed, bad) = numbers(up);
    let (torn_down, _, left_out, ..) = numbers(setups);
    n > 0
        && match rule {
            R::AllSuccess | R::NoneSkipped | R::AllDoneMinOneSuccess => skipped > 0,
            R::AllFailed => success + skipped > 0,
            R::AllSkipped => success + bad > 0,
            R::OneSuccess | R::NoneFailedMinOneSuccess => skipped == n,
            R::OneFailed => bad == 0,
            R::OneDone => success + failed == 0,
            R::AllDoneSetupSuccess => torn_down > 0 && left_out == torn_down,
            R::AllDone | R::NoneFailed | R::Always => false,
        }
}

fn may_fail(rule: TriggerRule, (up, setups): &Up) -> bool {
    use TriggerRule as R;
    let (n, success, _, _, bad) = numbers(up);
    let (torn_down, set_up, left_out, ..) = numbers(setups);
    n > 0
        && match rule {
            R::AllSuccess | R::NoneFailed | R::NoneFailedMinOneSuccess => bad > 0,
            R::OneSuccess | R::AllDoneMinOneSuccess => success == 0,
            R::AllDoneSetupSuccess => torn_down > 0 && set_up == 0 && left_out < torn_down,
            _ => false,
        }
}

/// Goal: an instance that was stopped before it had a slot is in nobody's way. Method: a run that fails fast while one
/// of its instances waits for a slot, and a run after it that needs the slots.
#[test]
fn a_run_that_fails_fast_leaves_nothing_in_the_way() {
    let task = |kind, upstream: &[usize], outcome| Plan {
        kind,
        part: Part::Work,
        upstream: upstream.to_vec(),
        rule: TriggerRule::AllSuccess,
        retries: 0,
        looks_back: false,
        outcomes: vec![outcome],
    };
    let plans = [
        task(Kind::Plain, &[], "success"),
        task(Kind::Plain, &[], "success"),
        task(Kind::Mapped(2), &[], "fail"),
        task(Kind::Plain, &[0], "success"),
    ];
    block_on(async {
        let order = Order { slots: 3, picked: true };
        let mut sim = Sim::new(dag_of(&plans, true), order, 1024, Keeps::Memory).await.expect("it compiles");
        for day in ["2024-01-01", "2024-01-02"] {
            sim.create(&format!("scheduled__{day}"), format!("{day}T00:00:00Z").parse().expect("a date"))
                .await;
        }
        // The last of those that are out: the mapped task of the first run fails while its second instance waits.
        sim.run_watched(|count| count - 1, views_are_right).await;
        for run in sim.runs().await {
            assert_eq!(run.state, RunState::Failed, "{}", run.run_id);
        }
    });
}
