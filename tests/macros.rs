//! The macros as a user meets them: everything through `use airflow::prelude::*`.

#![deny(unused)]

mod support;

use std::time::Duration;

use airflow::dag::{IntoSpec, Role, TaskOptions};
use airflow::operator::{Description, Operator as _, Resources};
use airflow::prelude::*;
use airflow::time::parse_duration;
use support::{context, context_with, run};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Order {
    id: u64,
    cents: i64,
}

struct Rates {
    factor: i64,
}

struct PgPool;

#[derive(Default, Serialize, Deserialize, JsonSchema)]
struct Nightly {
    table: String,
}

const RETRIES: u32 = 7;
const POOL: &str = "warehouse";

async fn notify(_: CallbackContext) {}

async fn page(_: CallbackContext) {}

/// Pull yesterday's orders.
///
/// From the shop.
#[task(retries = 3, retry_delay = "30s", timeout = "5m", pool = "warehouse")]
async fn extract(cx: &TaskContext, db: &PgPool) -> Result<Vec<Order>> {
    let _ = (cx.dag_id(), db);
    Ok(vec![Order { id: 1, cents: 500 }])
}

#[task]
async fn price(order: Order, rates: &Rates) -> Result<i64> {
    Ok(order.cents * rates.factor)
}

#[task]
async fn report(cents: i64, to: String) {
    let _ = (cents, to);
}

#[task]
async fn noop() {}

/// What a task says about itself: how many of its inputs come from upstream, and which resources it needs.
fn described<S: IntoSpec>(task: S) -> (usize, Vec<&'static str>) {
    let spec = task.into_spec();
    let mut description = Description::default();
    spec.operator().describe(&mut description);
    let short = |name: &'static str| name.rsplit("::").next().unwrap_or(name);
    let resources = description.resources.iter().map(|need| short(need.type_name())).collect();
    (description.inputs.len(), resources)
}

fn options<S: IntoSpec>(task: S) -> TaskOptions {
    task.into_spec().effective_options()
}

#[test]
fn a_task_is_still_a_function() {
    let order = Order { id: 1, cents: 5 };
    assert_eq!(run(price(order, &Rates { factor: 2 })).unwrap(), 10);
    assert_eq!((price::ID, extract::ID), ("price", "extract"));
}

#[test]
fn owned_parameters_are_data_and_borrowed_ones_are_injected() {
    #[task]
    async fn total_of(orders: Vec<Order>, plus: i64) -> Result<i64> {
        Ok(orders.iter().map(|order| order.cents).sum::<i64>() + plus)
    }

    let mut found = Vec::new();
    let _ = DagDef::new("d").define(|d| {
        let orders = d.add(extract::call());
        found.push(described(extract::call()));
        found.push(described(price::call(Order { id: 1, cents: 5 })));
        found.push(described(total_of::call(orders, 3)));
        d.map(orders, |order| {
            found.push(described(price::call(order.clone())));
            price::call(order)
        });
    });

    let (pool, rates) = (vec!["PgPool"], vec!["Rates"]);
    assert_eq!(found, [(0, pool), (0, rates.clone()), (1, vec![]), (1, rates)]);
}

#[test]
fn a_task_runs_with_what_is_injected() {
    #[task]
    async fn all_kinds(
        mut order: Order,
        (low, high): (i64, i64),
        cx: &TaskContext,
        params: &Params<Nightly>,
        rates: &Rates,
    ) -> Result<String> {
        order.cents *= rates.factor;
        Ok(format!("{}.{}: {} in {low}..{high}", cx.dag_id(), params.table, order.cents))
    }

    #[task]
    fn on_a_thread(
        order: Order,
        cx: &TaskContext,
        params: &Params<Nightly>,
        rates: &Rates,
    ) -> Result<String> {
        assert_ne!(std::thread::current().name(), Some("a_task_runs_with_what_is_injected"));
        Ok(format!("{}.{}: {}", cx.dag_id(), params.table, order.cents * rates.factor))
    }

    let mut resources = Resources::default();
    resources.insert(Rates { factor: 3 });
    let cx = context_with(resources, serde_json::json!({"table": "sales"}));
    let order = Order { id: 1, cents: 5 };
    let call = all_kinds::call(order.clone(), (1, 9));
    assert_eq!(run(call.operator().execute(&cx)).unwrap(), "d.sales: 15 in 1..9");
    let call = on_a_thread::call(order);
    assert_eq!(run(call.operator().execute(&cx)).unwrap(), "d.sales: 15");
}

#[test]
fn a_missing_resource_fails_for_good_and_names_its_type() {
    let call = price::call(Order { id: 1, cents: 5 });
    let error = run(call.operator().execute(&context())).unwrap_err();
    assert!(matches!(&error, TaskError::Fail(why) if why.contains("Rates")), "{error}");
}

#[test]
fn a_task_may_return_nothing_or_any_result() {
    #[derive(Debug)]
    struct Odd;

    impl std::fmt::Display for Odd {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("odd")
        }
    }

    impl std::error::Error for Odd {}

    #[task]
    async fn even(number: i64) -> std::result::Result<i64, Odd> {
        if number % 2 == 0 { Ok(number) } else { Err(Odd) }
    }

    #[task]
    fn boxed() -> std::result::Result<Option<u8>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(None)
    }

    let cx = context();
    run(report::call(1, "me").operator().execute(&cx)).unwrap();
    assert_eq!(run(even::call(2).operator().execute(&cx)).unwrap(), 2);
    assert_eq!(run(even::call(3).operator().execute(&cx)).unwrap_err().to_string(), "odd");
    assert_eq!(run(boxed::call().operator().execute(&cx)).unwrap(), None);
}

#[test]
fn options_of_the_use_win_over_those_of_the_attribute() {
    let kind = options(extract::call());
    assert_eq!((kind.retries, kind.pool.as_deref()), (Some(3), Some("warehouse")));
    assert_eq!(kind.retry_delay, Some(secs(30)));
    assert_eq!(kind.timeout, Some(mins(5)));
    assert_eq!(kind.doc.as_deref(), Some("Pull yesterday's orders.\n\nFrom the shop."));
    let used = options(extract::call().retries(2));
    assert_eq!((used.retries, used.retry_delay), (Some(2), Some(secs(30))));
    assert_eq!(options(noop::call()).retries, None);
}

fn all_are_set(options: &TaskOptions) {
    let shown = format!("{options:?}");
    // What an asset leaves out is no option.
    let unset = shown.replace("Asset { name: None", "Asset { ..").replace("wrong: None }", ".. }");
    assert!(!unset.contains(": None"), "an option is not set: {shown}");
}

fn check_places(o: &TaskOptions) {
    assert_eq!((o.pool.as_deref(), o.pool_slots), (Some("warehouse"), Some(2)));
    assert_eq!((o.queue.as_deref(), o.executor.as_deref()), (Some("queue_1"), Some("local")));
    assert_eq!(o.executor_config, Some(serde_json::json!({ "pod": "big" })));
    assert_eq!((o.isolation, o.trigger_rule), (Some(Isolation::Process), Some(TriggerRule::AllDone)));
}

fn check_waits(o: &TaskOptions) {
    assert_eq!((o.timeout, o.execution_timeout), (Some(days(2)), Some(secs(1))));
    assert_eq!((o.mode, o.poke_interval), (Some(SensorMode::Deferred), Some(secs(30))));
    assert_eq!((o.poke_backoff, o.max_wait), (Some(true), Some(mins(9))));
    assert_eq!((o.soft_fail, o.silent_fail, o.never_fail), (Some(true), Some(true), Some(false)));
}

/// Goal: every option exists under its name and under Airflow's. Method: give them all, once each, and look at them all.
#[test]
fn every_option_has_its_names() {
    #[sensor(
        id = "all-of.them",
        retries = RETRIES,
        retry_delay = mins(5),
        retry_exponential_backoff = true,
        max_retry_delay = "1h",
        timeout = "2d",
        execution_timeout = Duration::from_secs(1), sla = "2h",
        mode = "deferred",
        poke_every = "30s",
        poke_backoff,
        max_wait = mins(9),
        soft_fail,
        silent_fail = true,
        never_fail = false,
        pool = POOL,
        pool_slots = 2,
        priority_weight = -3,
        weight_rule = "upstream",
        queue = format!("queue_{}", 1),
        executor = "local",
        executor_config = serde_json::json!({ "pod": "big" }),
        isolation = "process",
        trigger_rule = "all_done",
        depends_on_past,
        wait_for_downstream = false,
        max_active_tis_per_dag = 4,
        max_active_tis_per_dagrun = 5,
        start_date = DateTime::<Utc>::UNIX_EPOCH,
        end_date = DateTime::<Utc>::MAX_UTC,
        do_xcom_push = !true,
        owner = "me",
        doc_md = "Does it.",
        display_name = "All",
        outlets = [Asset::new("s3://lake/made")],
        inlets = ["s3://lake/read"],
        on_execute = notify,
        on_success_callback = notify,
        on_failure = [notify, page],
        on_retry = |_| async {},
        on_skipped_callback = support::callback,
        blocking,
        crate = ::airflow
    )]
    fn all() -> Result<bool> {
        Ok(true)
    }

    let o = options(all::call());
    all_are_set(&o);
    assert_eq!((o.retries, o.retry_delay, o.max_retry_delay), (Some(7), Some(mins(5)), Some(hours(1))));
    assert_eq!(o.retry_exponential_backoff, Some(2.0));
    check_waits(&o);
    assert_eq!((o.priority_weight, o.weight_rule), (Some(-3), Some(WeightRule::Upstream)));
    check_places(&o);
    assert_eq!(
        (o.depends_on_past, o.wait_for_downstream, o.do_xcom_push),
        (Some(true), Some(false), Some(false))
    );
    assert_eq!((o.max_active_tis_per_dag, o.max_active_tis_per_dagrun), (Some(4), Some(5)));
    assert_eq!(
        (o.owner.as_deref(), o.doc.as_deref(), o.display_name.as_deref()),
        (Some("me"), Some("Does it."), Some("All"))
    );
    let c = &o.callbacks;
    let counts = [&c.on_execute, &c.on_success, &c.on_failure, &c.on_retry, &c.on_skipped].map(Vec::len);
    assert_eq!(counts, [1, 1, 2, 1, 1]);
    assert_eq!((all::ID, all::call().operator().default_id().as_str()), ("all-of.them", "all-of.them"));
}

#[test]
fn setups_and_teardowns_may_be_declared() {
    #[task(setup)]
    async fn make() {}
    #[task(teardown)]
    async fn drop_it() {}
    #[task(on_failure_fail_dagrun)]
    async fn drop_or_fail() {}
    #[task(setup = false)]
    async fn work() {}

    let roles =
        [make::call().role(), drop_it::call().role(), drop_or_fail::call().role(), work::call().role()];
    let teardown = |on_failure_fail_dagrun| Role::Teardown { on_failure_fail_dagrun };
    assert_eq!(roles, [Role::Setup, teardown(false), teardown(true), Role::Work]);
}

/// Goal: the macro and the library read durations and rule names alike. Method: the same texts through both.
#[test]
fn literals_mean_what_the_library_says() {
    macro_rules! durations {
        ($($text:literal),*) => { [$({
            #[task(retry_delay = $text)]
            async fn waits() {}
            ($text, options(waits::call()).retry_delay)
        }),*] };
    }
    for (text, read) in
        durations!["30s", "5m", "1h30m", "2 d", "250ms", "1w", " 3 hours 2mins ", "0s", "1sec"]
    {
        assert_eq!(read, Some(parse_duration(text).unwrap()), "{text}");
    }

    macro_rules! rules {
        ($($text:literal),* $(,)?) => { [$({
            #[task(trigger_rule = $text)]
            async fn waits() {}
            ($text, options(waits::call()).trigger_rule)
        }),*] };
    }
    let rules = rules![
        "all_success",
        "all_failed",
        "all_done",
        "all_done_min_one_success",
        "all_done_setup_success",
        "all_skipped",
        "one_success",
        "one_failed",
        "one_done",
        "none_failed",
        "none_failed_min_one_success",
        "none_skipped",
        "always",
        "dummy",
        "none_failed_or_skipped",
    ];
    for (text, read) in rules {
        assert_eq!(read, Some(TriggerRule::parse(text).unwrap()), "{text}");
    }
    let all = TriggerRule::ALL.iter().filter(|rule| rules.iter().any(|(_, read)| *read == Some(**rule)));
    assert_eq!(all.count(), TriggerRule::ALL.len(), "a rule lacks its name in the macro");
}

#[test]
fn conditions_hold_for_what_is_generated() {
    #[task]
    async fn depends(
        #[cfg(debug_assertions)] debug: i64,
        #[cfg(not(debug_assertions))] release: String,
        always: i64,
        #[cfg(not(any()))] rates: &Rates,
    ) -> Result<i64> {
        #[cfg(not(debug_assertions))]
        let debug = release.len() as i64;
        Ok((debug + always) * rates.factor)
    }

    #[cfg(any())]
    #[task]
    async fn never(broken: NoSuchType) {}

    #[task]
    #[cfg(any())]
    async fn never_either(broken: NoSuchType) {}

    let mut resources = Resources::default();
    resources.insert(Rates { factor: 10 });
    let cx = context_with(resources, serde_json::Value::Null);
    #[cfg(debug_assertions)]
    assert_eq!(run(depends::call(1, 2).operator().execute(&cx)).unwrap(), 30);
    #[cfg(not(debug_assertions))]
    assert_eq!(run(depends::call("a", 2).operator().execute(&cx)).unwrap(), 30);
}

/// Goal: names of the user's never meet those of generated code.
#[test]
fn names_do_not_collide() {
    #[task]
    async fn odd(
        odd: i64,
        cx: i64,
        self_: i64,
        r#type: i64,
        Order { id: arg1, .. }: Order,
        _: i64,
    ) -> Result<i64> {
        Ok(odd + cx + self_ + r#type + i64::try_from(arg1).unwrap())
    }

    #[task]
    async fn r#match() -> Result<i64> {
        Ok(1)
    }

    let order = Order { id: 1, cents: 0 };
    assert_eq!(run(odd::call(1, 1, 1, 1, order, 9).operator().execute(&context())).unwrap(), 5);
    assert_eq!((r#match::ID, r#match::call().operator().default_id().as_str()), ("match", "match"));
}

mod inner {
    use airflow::prelude::*;

    /// Seen from outside.
    #[task]
    pub(super) async fn visible(name: String) -> Result<String> {
        Ok(name)
    }
}

#[test]
fn a_task_is_as_visible_as_its_function() {
    let call = inner::visible::call("x");
    assert_eq!(run(call.operator().execute(&context())).unwrap(), "x");
    assert_eq!(options(call).doc.as_deref(), Some("Seen from outside."));
}
