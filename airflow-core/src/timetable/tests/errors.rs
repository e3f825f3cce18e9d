//! The words of errors.

use std::time::Duration;

use super::*;

#[test]
fn a_wrong_schedule_names_the_expression_the_field_and_the_cure() {
    let count = "has 3 fields, but a cron has 5 (minute hour day-of-month month day-of-week), 6 (with the seconds last) or 7 (with the year)";
    let table: [(Schedule, &str); 28] = [
        ("61 * * * *".into(), "cron `61 * * * *`: minute 61 is not in 0-59"),
        ("60 * * * *".into(), "cron `60 * * * *`: minute 60 is not in 0-59; write 0 for the full turn"),
        ("0 24 * * *".into(), "cron `0 24 * * *`: hour 24 is not in 0-23; write 0 for midnight"),
        ("0 0 0 * *".into(), "cron `0 0 0 * *`: day of month 0 is not in 1-31"),
        ("0 0 * 13 *".into(), "cron `0 0 * 13 *`: month 13 is not in 1-12"),
        ("0 0 * * 1-8".into(), "cron `0 0 * * 1-8`: day of week 8 is not in 0-7"),
        (
            "0 0 * * 7 0".into(),
            "cron `0 0 * * 7 0`: day of week 7 is not in 0-6 in an expression with seconds; write 0 for Sunday",
        ),
        ("0 0 1 1 * 0 1969".into(), "cron `0 0 1 1 * 0 1969`: year 1969 is not in 1970-2099"),
        ("* * *".into(), count),
        ("".into(), "has 0 fields"),
        ("*/0 * * * *".into(), "cron `*/0 * * * *`: minute `*/0` has a step of 0: the smallest step is 1"),
        (
            "? * * * *".into(),
            "minute `?`: `?` stands alone, and only for day of month or day of week; write `*`",
        ),
        (
            "H * * * *".into(),
            "minute `h`: `H` is not supported; write a number, or `R` for one that is chosen once",
        ),
        ("0 0 * JANUARY *".into(), "month `january` is not understood: write the first three letters, `JAN`"),
        (
            "0 0 * * friday".into(),
            "day of week `friday` is not understood: write the first three letters, `FRI`",
        ),
        (
            "0 0 * * 5L".into(),
            "day of week `5l` is not understood: for the last such weekday of a month write `L5`",
        ),
        ("0 0 15W * *".into(), "the nearest workday (`W`) is not supported"),
        ("0 0 * * 5#6".into(), "day of week `5#6`: after `#` comes the week of the month, 1-5"),
        ("0 0 * * 5#2,1".into(), "day of week `5#2,1` mixes plain weekdays with `#` or `L`"),
        (
            "1,,2 * * * *".into(),
            "minute `` is not understood: write 0-59, a range `0-4`, a step `*/2`, or a list",
        ),
        ("@dayly".into(), "cron `@dayly`: is no preset; did you mean `@daily`?"),
        ("@reboot".into(), "cron `@reboot`: is no preset"),
        (
            "0 0 31 2 *".into(),
            "cron `0 0 31 2 *` never fires: no date matches its day, month and year; for the last day of a month write `L`",
        ),
        (
            Cron::hourly().tz("Europe/Pari").into(),
            "`Europe/Pari` is no time zone; did you mean `Europe/Paris`?",
        ),
        (Cron::daily("24:00").into(), "`24:00` is no time of day: write HH:MM, from 00:00 to 23:59"),
        (Duration::ZERO.into(), "a run every `0:00:00` never moves on"),
        (Duration::MAX.into(), "leaves the years 1 to 9999: write a shorter one"),
        (Schedule::any_of([]), "a schedule of several crons has none"),
    ];
    for (schedule, text) in table {
        let error = schedule.timetable(Tz::UTC).expect_err(text).to_string();
        assert!(error.contains(text), "`{error}` does not say `{text}`");
    }
}

#[test]
fn a_negative_step_or_interval_is_refused() {
    let back = chrono::TimeDelta::seconds(-1);
    assert!(matches!(Schedule::from(back).timetable(Tz::UTC), Err(ScheduleError::NotPositive { .. })));
    let trigger = Schedule::from(Cron::hourly().interval(back)).timetable(Tz::UTC);
    assert!(matches!(trigger, Err(ScheduleError::NegativeInterval { .. })));
}

#[test]
fn a_search_without_an_end_ends_with_an_error() {
    let cron = CronExpression::parse("0 0 31 2 *").expect("well-formed, though it never fires");
    assert!(!cron.fires());
    let ticks = CronTicks::new(cron, Tz::UTC);
    let error = ticks.next(utc("2026-01-01T00:00:00Z")).expect_err("no tick");
    let text = "cron `0 0 31 2 *` does not fire within 50 years of 2026-01-01 00:00:00 UTC: check its day, month and year";
    assert_eq!(error.to_string(), text);
}

#[test]
fn dates_beyond_the_calendar_are_errors() {
    let far = [
        DateTime::<Utc>::MIN_UTC,
        DateTime::<Utc>::MAX_UTC,
        utc("0001-01-01T00:00:00Z"),
        utc("9999-12-31T23:59:59Z"),
    ];
    let schedules: [Schedule; 5] = [
        "@daily".into(),
        Cron::new("* * * * * *").tz("Pacific/Apia").trigger().into(),
        Delta::years(30).into(),
        Delta::months(1).trigger().into(),
        Schedule::any_of([Cron::hourly().tz("America/New_York"), Cron::new("0 0 29 2 *")]),
    ];
    for schedule in schedules {
        let timetable = schedule.timetable(Tz::UTC).expect("valid");
        for (at, catchup) in far.into_iter().flat_map(|at| [(at, true), (at, false)]) {
            let restriction = TimeRestriction { earliest: Some(at), latest: None, catchup };
            // Answers near the ends may or may not exist; none may panic or leave the calendar.
            for last in [None, Some(DataInterval::exact(at))] {
                if let Ok(Some(run)) = timetable.next_dagrun_info(last, &restriction, at) {
                    assert!(crate::time::YEARS.contains(&chrono::Datelike::year(&run.run_after)), "{run:?}");
                }
            }
            let _ = timetable.infer_manual_data_interval(at);
        }
        let beyond = TimeRestriction { earliest: Some(far[1]), latest: None, catchup: true };
        assert!(timetable.next_dagrun_info(None, &beyond, far[1]).is_err(), "{timetable:?}");
    }
}
