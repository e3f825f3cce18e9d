//! Timetables and cron: which runs come, from when to when, and which ticks.

use std::sync::Arc;

use airflow_core::timetable::{
    Cron, CronExpression, CronTicks, DagRunInfo, DataInterval, Delta, Events, Schedule, TimeRestriction,
    Timetable,
};
use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use serde_json::{Value, json};

pub(crate) fn check(case: &Value) -> Result<(), String> {
    let group = case["group"].as_str().unwrap_or_default();
    let expected = &case["expected"];
    match group {
        "cron_validity" => {
            let (expected, mut got) = (expected_validity(expected), validity(case));
            // A random schedule (`R`) is accepted, but nobody can expect certain ticks of it.
            got.as_object_mut().expect("an object").retain(|key, _| expected.get(key).is_some());
            same(&expected, &got)
        }
        "cron_next_prev" => same(expected, &next_prev(case)),
        "infer_manual_data_interval" => {
            let run_after = time(&case["manual_run_after"]).expect("a manual case has a time");
            let got = timetable(case).infer_manual_data_interval(run_after);
            same(
                expected,
                &got.map_or_else(
                    |error| said(&error),
                    |interval| json!({ "data_interval": shown(interval) }),
                ),
            )
        }
        _ => check_steps(case, expected),
    }
}

/// Each step by itself, with the `now` and the last interval that it records.
fn check_steps(case: &Value, expected: &Value) -> Result<(), String> {
    let timetable = timetable(case);
    let restriction = TimeRestriction {
        earliest: time(&case["start_date"]),
        latest: time(&case["end_date"]),
        catchup: case["catchup"].as_bool().expect("catchup is a bool"),
    };
    for (number, step) in expected["steps"].as_array().expect("steps is a list").iter().enumerate() {
        let now = time(&step["now"]).expect("a step has a time");
        let got = timetable.next_dagrun_info(interval(&step["last_data_interval"]), &restriction, now);
        let wanted = if step["raises"].is_string() { &json!("an error") } else { &step["next"] };
        let got = match got {
            Ok(run) => run.map_or(Value::Null, run_shown),
            Err(_) if step["raises"].is_string() => json!("an error"),
            Err(error) => said(&error),
        };
        same(wanted, &got).map_err(|mismatch| format!("step {number}: {mismatch}"))?;
    }
    Ok(())
}

/// Five ticks in each direction, each from the one before.
fn next_prev(case: &Value) -> Value {
    let ticks = ticks(case).expect("the expression is valid");
    let base = time(&case["base"]).expect("a base");
    let walk = |step: &dyn Fn(DateTime<Utc>) -> DateTime<Utc>| {
        let mut at = base;
        let ticks = std::iter::repeat_with(|| {
            at = step(at);
            text(at)
        });
        ticks.take(5).collect::<Vec<_>>()
    };
    json!({
        "next": walk(&|at| ticks.next(at).expect("a next tick")),
        "prev": walk(&|at| ticks.prev(at).expect("a previous tick")),
        "align_to_next": text(ticks.align_to_next(base).expect("a tick")),
        "align_to_prev": text(ticks.align_to_prev(base).expect("a tick")),
    })
}

fn validity(case: &Value) -> Value {
    let Ok(ticks) = ticks(case) else { return json!({ "accepted": false }) };
    let mut at = "2024-01-01T00:00:00Z".parse().expect("a date");
    let mut found = Vec::new();
    for _ in 0..3 {
        match ticks.next(at) {
            Ok(next) => at = next,
            Err(_) => return json!({ "accepted": true, "next_raises": true }),
        }
        found.push(text(at));
    }
    json!({ "accepted": true, "next_after_2024_01_01T00_00_00Z": found })
}

/// Python's names of errors are not ours: whether there is one is what counts.
fn expected_validity(expected: &Value) -> Value {
    let mut expected = expected.clone();
    let fields = expected.as_object_mut().expect("expected is an object");
    fields.remove("error");
    if fields.contains_key("next_raises") {
        fields.insert("next_raises".to_owned(), json!(true));
    }
    expected
}

fn ticks(case: &Value) -> Result<CronTicks, airflow_core::timetable::CronError> {
    let timetable = &case["timetable"];
    let zone: Tz = timetable["timezone"].as_str().expect("a zone").parse().expect("a known zone");
    Ok(CronTicks::new(CronExpression::parse(timetable["cron"].as_str().expect("a cron"))?, zone))
}

fn timetable(case: &Value) -> Arc<dyn Timetable> {
    let spec = &case["timetable"];
    let seconds = |key: &str| {
        let seconds = spec[key].as_f64().unwrap_or_default();
        #[expect(clippy::cast_possible_truncation, reason = "the cases are far below 2^53 microseconds")]
        let micros = (seconds * 1e6).round() as i64;
        TimeDelta::microseconds(micros)
    };
    let cron = || {
        let [cron, zone] = ["cron", "timezone"].map(|key| spec[key].as_str().expect("text").to_owned());
        Cron::new(cron).tz(zone)
    };
    let delta = || match spec["relativedelta"].as_object() {
        None => Delta::every(seconds("delta_seconds")),
        Some(parts) => parts.iter().fold(Delta::seconds(0), |sum, (unit, count)| {
            let count = u32::try_from(count.as_u64().expect("a count")).expect("a small count");
            sum.plus(match unit.as_str() {
                "years" => Delta::years(count),
                "months" => Delta::months(count),
                "weeks" => Delta::weeks(count),
                "days" => Delta::days(count),
                "hours" => Delta::hours(count),
                "minutes" => Delta::minutes(count),
                "seconds" => Delta::seconds(count),
                other => panic!("unknown unit {other}"),
            })
        }),
    };
    let schedule: Schedule = match spec["type"].as_str().expect("a type") {
        "CronDataIntervalTimetable" => cron().into(),
        "CronTriggerTimetable" => cron().interval(seconds("interval_seconds")).into(),
        "DeltaDataIntervalTimetable" => delta().into(),
        "DeltaTriggerTimetable" => delta().interval(seconds("interval_seconds")).into(),
        "OnceTimetable" => "@once".into(),
        "ContinuousTimetable" => "@continuous".into(),
        "NullTimetable" => "none".into(),
        "EventsTimetable" => {
            let dates = spec["event_dates"].as_array().expect("dates").iter();
            let events = Events::new(dates.map(|date| time(date).expect("a date")));
            match spec["restrict_to_events"].as_bool() {
                Some(true) => events.restrict_to_events().into(),
                _ => events.into(),
            }
        }
        other => panic!("unknown timetable {other}: teach this test to build it"),
    };
    schedule.timetable(Tz::UTC).expect("the schedule is valid")
}

fn time(value: &Value) -> Option<DateTime<Utc>> {
    value.as_str().map(|text| text.parse().expect("an ISO 8601 time"))
}

fn interval(value: &Value) -> Option<DataInterval> {
    Some(DataInterval::new(time(&value["start"])?, time(&value["end"])?))
}

fn text(time: DateTime<Utc>) -> String {
    time.to_rfc3339()
}

fn shown(interval: DataInterval) -> Value {
    json!({ "start": text(interval.start), "end": text(interval.end) })
}

fn run_shown(run: DagRunInfo) -> Value {
    json!({ "run_after": text(run.run_after), "data_interval": shown(run.data_interval) })
}

fn said(error: &dyn std::error::Error) -> Value {
    json!(format!("error: {error}"))
}

fn same(expected: &Value, got: &Value) -> Result<(), String> {
    if expected == got { Ok(()) } else { Err(format!("expected {expected}, got {got}")) }
}
