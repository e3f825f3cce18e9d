//! The examples say what they promise. Each also checks its own result and ends with an error if it is another.

#[path = "support/example.rs"]
mod support;

use support::{example, finished};

fn says(name: &str, expected: &[&str]) {
    let output = finished(&mut example(name));
    let said = String::from_utf8(output.stdout).expect("it prints text");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {}\n{said}\n{errors}", output.status);
    let said: Vec<&str> = said.lines().collect();
    assert_eq!(said, expected, "{name}\n{errors}");
}

#[test]
fn e01_hello() {
    says("01_hello", &["the run ended as success: Hello, world!"]);
}

#[test]
fn e02_typed_data() {
    says(
        "02_typed_data",
        &[
            "sales: 3 orders, 33.45 EUR",
            "sales: 2 orders, 33.00 EUR",
            "refused: the conf for dag `sales` does not fit its params: `conf` must be a JSON object, not `\"everything\"`",
        ],
    );
}

#[test]
fn e03_custom_operator() {
    says("03_custom_operator", &["to boss: Sales: 42", "to team: daily_sales of 2026-03-02: 42"]);
}

#[test]
fn e04_branching() {
    says(
        "04_branching",
        &[
            "5000 rows, holiday false: load_all - publish ring_the_bell",
            "  10 rows, holiday true : - load_new publish -",
            "   0 rows, holiday false: - - - -",
        ],
    );
}

#[test]
fn e05_mapping() {
    says("05_mapping", &["three: 2, trees: 2, stood: 0, here: 2; 6 in all, 6 shouted"]);
}

#[test]
fn e06_retries_and_callbacks() {
    says(
        "06_retries_and_callbacks",
        &[
            "failure of dag deliveries: task_failure",
            "failure of endless (try 1): the attempt took longer than its timeout of 20ms",
            "failure of hopeless (try 1): no such table",
            "retry of flaky (try 1): the server is busy",
            "retry of flaky (try 2): the server said: in a moment",
            "skipped of idle (try 1): no new rows",
            "success of flaky (try 3): -",
            "the run ended as failed",
        ],
    );
}

#[test]
fn e07_schedules_and_catchup() {
    says(
        "07_schedules_and_catchup",
        &[
            "every_morning scheduled 03-27 05:00 to 03-28 05:00, due 03-28 05:00",
            "every_morning scheduled 03-28 05:00 to 03-29 04:00, due 03-29 04:00",
            "every_morning scheduled 03-29 04:00 to 03-30 04:00, due 03-30 04:00",
            "every_morning scheduled 03-30 04:00 to 03-31 04:00, due 03-31 04:00",
            "from_now_on   scheduled 03-30 00:00 to 03-31 00:00, due 03-31 00:00",
            "twice_a_day   scheduled 03-01 00:00 to 03-01 12:00, due 03-01 12:00",
            "twice_a_day   scheduled 03-01 12:00 to 03-02 00:00, due 03-02 00:00",
            "twice_a_day   scheduled 03-02 00:00 to 03-02 12:00, due 03-02 12:00",
            "weekly        backfill  02-01 00:00 to 02-08 00:00, due 02-08 00:00",
            "weekly        backfill  02-08 00:00 to 02-15 00:00, due 02-15 00:00",
            "weekly        backfill  02-15 00:00 to 02-22 00:00, due 02-22 00:00",
            "weekly        scheduled 03-22 00:00 to 03-29 00:00, due 03-29 00:00",
        ],
    );
}

#[test]
fn e08_groups() {
    says("08_groups", &["plan > walls.north > walls.south > roof.beams > roof.tiles"]);
}

#[test]
fn e09_setup_teardown() {
    says(
        "09_setup_teardown",
        &[
            "success: make_cluster success, query success, drop_cluster success",
            "failed: make_cluster success, query failed, drop_cluster success",
            "failed: make_cluster failed, query upstream_failed, drop_cluster upstream_failed",
        ],
    );
}

#[test]
fn e10_embedding() {
    let exists = "409 dag `fulfil` has a run `order-7` already; choose another run id or logical date, or clear that run";
    let tasks = r#"{"check":"success","pack[0]":"success","pack[1]":"success","ship":"success"}"#;
    let shown = format!(r#"200 {{"state":"success","tasks":{tasks}}}"#);
    says("10_embedding", &["200 \"order-7\"", exists, &shown]);
}

#[test]
fn e11_testing() {
    says("11_testing", &["run the tests of `sales` with `cargo test --example 11_testing`"]);
}

#[test]
fn e13_sensors() {
    says(
        "13_sensors",
        &[
            "sales   success from 06:00 to 07:05",
            "archive success from 07:05 to 07:05",
            "report  success from 06:00 to 07:10",
            "job 7 is done with 1200 rows",
        ],
    );
}

#[test]
fn e12_command_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let args = ["dags", "test", "sales", "2026-03-02", "--conf", r#"{"region": "south"}"#];
    let output = finished(example("12_command_line").args(args).env("AIRFLOW_HOME", folder.path()));
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("south on 2026-03-02: 4200"), "{said}");
}

#[test]
fn e14_assets() {
    says(
        "14_assets",
        &[
            "the report runs by: Triggered by assets",
            "asset_triggered by asset",
            "s3://lake/orders: {\"rows\":97} of loading; s3://lake/rates: {\"EUR\":1.08} from outside",
            "s3://lake/orders: 1 event, waits for it: reporting",
            "s3://lake/rates: 1 event, waits for it: reporting",
        ],
    );
}

#[cfg(unix)]
#[test]
fn e15_custom_executor() {
    says(
        "15_custom_executor",
        &[
            "small ran here, large ran on the machine `big`",
            "wrong: there is no machine `bg`; write `big`, or nothing",
        ],
    );
}

#[test]
fn e16_watchers() {
    let said = "prices ran by asset: 9 bytes";
    let orders = "orders: order 1, order 2, order 3";
    let shop = "shop of x-shop://orders: 3 events up to 3";
    let file = "file of file:///in/prices.csv: 1 events";
    says("16_watchers", &[said, orders, file, shop]);
}
