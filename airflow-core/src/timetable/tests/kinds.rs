//! Summaries, identities, several crons, and schedules made from other types.

use std::time::{Duration, Instant};

use super::*;

#[test]
fn every_kind_says_what_it_is() {
    let event = utc("2026-06-01T18:00:00Z");
    let table: [(Schedule, &str, &str, &str); 15] = [
        ("@daily".into(), "@daily", "At 00:00 every day (UTC)", "cron-interval 0 0 * * * UTC"),
        (
            "0  6 * * MON-FRI".into(),
            "0  6 * * MON-FRI",
            "At 06:00 on Monday to Friday (UTC)",
            "cron-interval 0 6 * * mon-fri UTC",
        ),
        (
            Cron::daily("2:30").tz("America/New_York").into(),
            "30 2 * * *",
            "At 02:30 every day (America/New_York)",
            "cron-interval 30 2 * * * America/New_York",
        ),
        (
            Cron::hourly().trigger().into(),
            "0 * * * *",
            "Every hour (UTC)",
            "cron-trigger 0 * * * * UTC 0:00:00",
        ),
        (
            Cron::hourly().interval(Duration::from_hours(1)).into(),
            "0 * * * *",
            "Every hour (UTC)",
            "cron-trigger 0 * * * * UTC 1:00:00",
        ),
        (Duration::from_hours(24).into(), "1 day, 0:00:00", "Every day", "delta-interval 1 day, 0:00:00"),
        (Delta::minutes(15).trigger().into(), "0:15:00", "Every 15 minutes", "delta-trigger 0:15:00 0:00:00"),
        (Delta::months(3).into(), "3 months", "Every 3 months", "delta-interval 3 months"),
        ("@ONCE".into(), "@once", "Once, as soon as possible", "once"),
        (
            "@continuous".into(),
            "@continuous",
            "As frequently as possible, but only one run at a time",
            "continuous",
        ),
        ("none".into(), "Never", "Never, external triggers only", "manual"),
        ("@None".into(), "Never", "Never, external triggers only", "manual"),
        (Schedule::events([]), "0 events", "No events", "events false"),
        (
            Schedule::events([event, event]),
            "1 event",
            "1 event, at 2026-06-01 18:00 (UTC)",
            "events false 2026-06-01T18:00:00+00:00",
        ),
        (
            Schedule::any_of([Cron::daily("06:00"), Cron::daily("18:00")]),
            "0 6 * * *, 0 18 * * *",
            "At 06:00 every day (UTC); At 18:00 every day (UTC)",
            "crons [cron-trigger 0 6 * * * UTC 0:00:00] [cron-trigger 0 18 * * * UTC 0:00:00]",
        ),
    ];
    for (schedule, summary, description, identity) in table {
        let timetable = made(schedule);
        assert_eq!(timetable.summary(), summary);
        assert_eq!(timetable.description(), description);
        assert_eq!(timetable.identity(), identity);
    }
}

#[test]
fn periodic_scheduled_and_limited_are_told_apart() {
    let facts = |schedule: &str| {
        let timetable = made(schedule);
        (timetable.periodic(), timetable.can_be_scheduled(), timetable.active_runs_limit())
    };
    assert_eq!(facts("@daily"), (true, true, None));
    assert_eq!(facts("@once"), (false, true, None));
    assert_eq!(facts("@continuous"), (false, true, Some(1)));
    assert_eq!(facts("none"), (false, false, None));
}

#[test]
fn a_cron_without_a_zone_follows_the_dag_and_one_with_a_zone_does_not() {
    let paris = zone("Europe/Paris");
    let timetable = Schedule::from("@daily").timetable(paris).expect("valid");
    assert_eq!(timetable.timezone(), Some(paris));
    let timetable = Schedule::from(Cron::hourly().tz("UTC")).timetable(paris).expect("valid");
    assert_eq!(timetable.timezone(), Some(Tz::UTC));
}

#[test]
fn several_crons_catch_up_in_order_and_meet_in_one_run() {
    let timetable = made(Schedule::any_of([Cron::new("0 */6 * * *"), Cron::new("0 9,12 * * *")]));
    let times: Vec<String> = runs_from(&*timetable, "2026-01-01T01:00:00Z", 5)
        .iter()
        .map(|run| run.run_after.format("%d %H:%M").to_string())
        .collect();
    assert_eq!(times, ["01 06:00", "01 09:00", "01 12:00", "01 18:00", "02 00:00"]);
}

#[test]
fn several_crons_without_catch_up_give_the_newest_tick_that_has_passed() {
    let timetable = made(Schedule::any_of([Cron::daily("06:00"), Cron::daily("18:00")]));
    let restriction = TimeRestriction { earliest: None, latest: None, catchup: false };
    let next = |last: Option<&str>, now: &str| {
        let last = last.map(|at| DataInterval::exact(utc(at)));
        let run = timetable.next_dagrun_info(last, &restriction, utc(now)).expect("an answer");
        run.expect("a run").run_after
    };
    assert_eq!(next(None, "2026-01-05T20:00:00Z"), utc("2026-01-05T18:00:00Z"));
    assert_eq!(next(None, "2026-01-05T10:00:00Z"), utc("2026-01-05T06:00:00Z"));
    assert_eq!(next(Some("2026-01-05T18:00:00Z"), "2026-01-05T20:00:00Z"), utc("2026-01-06T06:00:00Z"));
}

#[test]
fn a_random_field_is_chosen_once_per_key_and_within_its_range() {
    let minute =
        |key: &str| CronExpression::parse_for("R(10-19) 2 * * *", key).expect("valid").canonical().to_owned();
    assert_eq!(minute("a"), minute("a"));
    let keys = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let minutes: std::collections::BTreeSet<String> = keys.into_iter().map(minute).collect();
    assert!(minutes.len() > 2, "eight keys share {minutes:?}");
    assert!(
        minutes.iter().all(|text| text.starts_with('1') && text.len() == "10 2 * * *".len()),
        "{minutes:?}"
    );
    let identity = |key: &str| made(Cron::new("R R * * *").spread_by(key)).identity();
    assert_ne!(identity("sales"), identity("stock"));
}

/// Weekdays at noon, as a user would write it.
#[derive(Debug)]
struct Workdays;

impl Timetable for Workdays {
    fn next_dagrun_info(
        &self,
        last: Option<DataInterval>,
        restriction: &TimeRestriction,
        now: DateTime<Utc>,
    ) -> Result<Option<DagRunInfo>, TimetableError> {
        made("0 12 * * 1-5").next_dagrun_info(last, restriction, now)
    }

    fn infer_manual_data_interval(&self, run_after: DateTime<Utc>) -> Result<DataInterval, TimetableError> {
        Ok(DataInterval::exact(run_after))
    }

    fn summary(&self) -> String {
        "workdays".to_owned()
    }

    fn description(&self) -> String {
        "At noon on workdays".to_owned()
    }

    fn identity(&self) -> String {
        "workdays".to_owned()
    }
}

#[test]
fn a_timetable_of_ones_own_is_handed_over_as_it_is() {
    let timetable = made(Schedule::custom(Workdays));
    assert_eq!(timetable.summary(), "workdays");
    assert_eq!(runs_from(&*timetable, "2026-01-02T00:00:00Z", 1)[0].run_after, utc("2026-01-05T12:00:00Z"));
}

#[test]
fn the_list_of_upcoming_runs_ends_with_the_schedule() {
    let once = runs_from(&*made("@once"), "2026-01-01T00:00:00Z", 5);
    assert_eq!(once.len(), 1);
    let restriction = TimeRestriction {
        earliest: Some(utc("2026-01-01T00:00:00Z")),
        latest: Some(utc("2026-01-03T00:00:00Z")),
        catchup: true,
    };
    let now = utc("2026-01-01T00:00:00Z");
    assert_eq!(upcoming(&*made("@daily"), None, &restriction, now, 10).expect("runs").len(), 3);
    assert_eq!(upcoming(&*made("@continuous"), None, &restriction, now, 10).expect("runs").len(), 1);
    assert_eq!(upcoming(&*made("none"), None, &restriction, now, 10).expect("runs").len(), 0);
}

/// Goal: nobody computes a year of runs by trying every minute, or parses the expression again for each
/// run. Method: ten years of daily runs, in a bound that either would break a hundred times over.
#[test]
fn years_of_daily_runs_are_computed_at_once() {
    let timetable = made(Cron::daily("02:30").tz("America/New_York"));
    let begin = Instant::now();
    assert_eq!(runs_from(&*timetable, "2020-01-01T00:00:00Z", 3_653).len(), 3_653);
    assert!(begin.elapsed() < Duration::from_secs(2), "took {:?}", begin.elapsed());
}
