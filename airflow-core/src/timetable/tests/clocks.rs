//! Changes of the clocks.

use super::*;

/// Walks from `from` and compares the next ticks with `expected`.
fn assert_ticks(cron: &str, place: &str, from: &str, expected: &[&str]) {
    let ticks = CronTicks::new(CronExpression::parse(cron).expect(cron), zone(place));
    let mut at = utc(from);
    for tick in expected {
        at = ticks.next(at).expect("a tick");
        let shown = at.with_timezone(&ticks.zone()).to_rfc3339();
        assert_eq!(shown, *tick, "{cron} in {place}");
    }
}

#[test]
fn a_tick_in_the_left_out_hour_moves_on_by_the_gap() {
    let expected = ["2024-03-09T02:30:00-05:00", "2024-03-10T03:30:00-04:00", "2024-03-11T02:30:00-04:00"];
    assert_ticks("30 2 * * *", "America/New_York", "2024-03-09T00:00:00Z", &expected);
}

#[test]
fn a_tick_in_the_repeated_hour_happens_the_second_time_only() {
    let expected = ["2024-11-02T01:30:00-04:00", "2024-11-03T01:30:00-05:00", "2024-11-04T01:30:00-05:00"];
    assert_ticks("30 1 * * *", "America/New_York", "2024-11-02T00:00:00Z", &expected);
}

#[test]
fn an_hourly_schedule_fires_in_both_passes_of_the_repeated_hour() {
    let expected = ["2024-11-03T01:30:00-04:00", "2024-11-03T01:30:00-05:00", "2024-11-03T02:30:00-05:00"];
    assert_ticks("30 * * * *", "America/New_York", "2024-11-03T05:00:00Z", &expected);
}

#[test]
fn an_hourly_schedule_leaves_no_hour_out_where_the_clocks_go_on() {
    let expected = ["2024-03-10T01:30:00-05:00", "2024-03-10T03:30:00-04:00", "2024-03-10T04:30:00-04:00"];
    assert_ticks("30 * * * *", "America/New_York", "2024-03-10T06:00:00Z", &expected);
}

#[test]
fn a_change_of_half_an_hour_is_a_change_of_half_an_hour() {
    let gap = ["2024-10-06T02:45:00+11:00", "2024-10-07T02:15:00+11:00"];
    assert_ticks("15 2 * * *", "Australia/Lord_Howe", "2024-10-05T12:00:00Z", &gap);
    let overlap = ["2024-04-07T01:45:00+10:30", "2024-04-08T01:45:00+10:30"];
    assert_ticks("45 1 * * *", "Australia/Lord_Howe", "2024-04-06T12:00:00Z", &overlap);
}

#[test]
fn a_left_out_day_has_its_run_a_day_later() {
    // Samoa went from 29 to 31 December 2011. The run of the 30th coincides with that of the 31st.
    let expected = ["2011-12-29T06:00:00-10:00", "2011-12-31T06:00:00+14:00", "2012-01-01T06:00:00+14:00"];
    assert_ticks("0 6 * * *", "Pacific/Apia", "2011-12-29T15:00:00Z", &expected);
}

/// Goal: no zone has a change of the clocks that a search does not get over. Method: in every zone, two
/// fixed times of day that changes fall on, through the year in which Samoa left a day out.
#[test]
fn every_change_of_every_zone_has_a_next_tick() {
    let cron = CronExpression::parse("30 0,2 * * *").expect("valid");
    for place in chrono_tz::TZ_VARIANTS {
        let ticks = CronTicks::new(cron.clone(), place);
        let (mut at, end) = (utc("2011-01-01T00:00:00Z"), utc("2012-01-03T00:00:00Z"));
        while at < end {
            let next = ticks.next(at).expect("a tick");
            assert!(next > at, "{place}: {next} does not follow {at}");
            at = next;
        }
    }
}

#[test]
fn a_daily_run_in_new_york_covers_23_or_25_hours_at_a_change() {
    let timetable = made(Cron::daily("06:00").tz("America/New_York"));
    for (start, hours) in [("2024-03-09T11:00:00Z", 23), ("2024-11-02T10:00:00Z", 25)] {
        let run = runs_from(&*timetable, start, 1)[0];
        assert_eq!((run.data_interval.end - run.data_interval.start).num_hours(), hours);
    }
}

#[test]
fn a_delta_ignores_the_clocks() {
    let runs = runs_from(&*made(Delta::days(1)), "2024-03-09T11:00:00Z", 3);
    assert!(runs.iter().all(|run| (run.data_interval.end - run.data_interval.start).num_hours() == 24));
}
