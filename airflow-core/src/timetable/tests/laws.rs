//! What holds for every expression, zone and instant.

use std::str::FromStr as _;

use chrono::{NaiveDateTime, SubsecRound as _, TimeDelta};
use proptest::prelude::*;

use super::*;

/// A field of lists, ranges and steps within bounds, which all cron dialects read alike.
fn field(min: u32, max: u32) -> impl Strategy<Value = String> {
    let range = (min..max).prop_flat_map(move |low| (Just(low), low + 1..=max));
    let item = prop_oneof![
        (min..=max).prop_map(|number| number.to_string()),
        range.clone().prop_map(|(low, high)| format!("{low}-{high}")),
        (range, 1..6u32).prop_map(|((low, high), step)| format!("{low}-{high}/{step}")),
        (1..=max).prop_map(|step| format!("*/{step}")),
    ];
    prop_oneof![Just("*".to_owned()), prop::collection::vec(item, 1..3).prop_map(|items| items.join(","))]
}

/// Five fields, of which only one of the two day fields is restricted.
fn expression() -> impl Strategy<Value = String> {
    let days = prop_oneof![
        field(1, 31).prop_map(|days| (days, "*".to_owned())),
        field(0, 6).prop_map(|weekdays| ("*".to_owned(), weekdays)),
    ];
    (field(0, 59), field(0, 23), days, field(1, 12))
        .prop_map(|(minute, hour, (day, weekday), month)| format!("{minute} {hour} {day} {month} {weekday}"))
}

fn instant() -> impl Strategy<Value = DateTime<Utc>> {
    // 2000 to 2050, to the millisecond.
    (946_684_800_000..2_524_608_000_000_i64)
        .prop_map(|millis| DateTime::from_timestamp_millis(millis).expect("within the range"))
}

fn place() -> impl Strategy<Value = Tz> {
    prop::sample::select(&chrono_tz::TZ_VARIANTS[..])
}

fn cron_and_naive() -> impl Strategy<Value = (CronExpression, NaiveDateTime)> {
    let fires = |text: String| CronExpression::parse(&text).ok().filter(CronExpression::fires);
    (expression().prop_filter_map("never fires", fires), instant().prop_map(|at| at.naive_utc()))
}

proptest! {
    #[test]
    fn next_and_prev_are_neighbours((cron, at) in cron_and_naive()) {
        let next = cron.next_after(at).expect("fires");
        let prev = cron.prev_before(at).expect("fires");
        prop_assert!(prev < at && at < next);
        prop_assert_eq!(cron.next_after(prev).expect("fires").min(next), cron.next_after(prev).expect("fires"));
        // Between the two lies nothing but, maybe, `at` itself.
        let between = cron.next_after(prev).expect("fires");
        prop_assert!(between == next || between == at, "{} between {} and {}", between, prev, next);
        prop_assert_eq!(cron.prev_before(next).expect("fires"), if between == at { at } else { prev });
    }

    /// An independent implementation reads the expressions that all dialects share in the same way.
    #[test]
    fn ticks_agree_with_croner((cron, at) in cron_and_naive()) {
        let other = croner::Cron::from_str(cron.text()).expect("a common expression");
        let at = at.trunc_subsecs(0).and_utc();
        let next = other.find_next_occurrence(&at, false).expect("a tick");
        prop_assert_eq!(cron.next_after(at.naive_utc()), Some(next.naive_utc()));
        let prev = other.find_previous_occurrence(&at, false).expect("a tick");
        prop_assert_eq!(cron.prev_before(at.naive_utc()), Some(prev.naive_utc()));
    }

    #[test]
    fn the_next_tick_comes_later_in_every_zone((cron, _) in cron_and_naive(), at in instant(), zone in place()) {
        let ticks = CronTicks::new(cron, zone);
        let next = ticks.next(at).expect("fires");
        prop_assert!(next > at);
        let aligned = ticks.align_to_next(at).expect("fires");
        prop_assert!(aligned == at || aligned == next);
    }

    #[test]
    fn intervals_in_utc_follow_one_another((cron, _) in cron_and_naive(), at in instant()) {
        let timetable = CronDataInterval::new(CronTicks::new(cron, Tz::UTC));
        let restriction = TimeRestriction { earliest: Some(at), latest: None, catchup: true };
        let runs = upcoming(&timetable, None, &restriction, at, 5).expect("fires");
        prop_assert_eq!(runs.len(), 5);
        prop_assert!(runs[0].data_interval.start >= at);
        for pair in runs.windows(2) {
            prop_assert_eq!(pair[0].data_interval.end, pair[1].data_interval.start);
        }
    }

    /// Without catch-up at most one interval is due, and it is the newest: the one after it is not over.
    #[test]
    fn without_catch_up_the_newest_complete_interval_is_due((cron, _) in cron_and_naive(), now in instant()) {
        let timetable = CronDataInterval::new(CronTicks::new(cron, Tz::UTC));
        let restriction = TimeRestriction { earliest: None, latest: None, catchup: false };
        let run = timetable.next_dagrun_info(None, &restriction, now).expect("fires").expect("a run");
        prop_assert!(run.run_after <= now);
        let next = timetable.next_dagrun_info(Some(run.data_interval), &restriction, now).expect("fires").expect("a run");
        prop_assert!(next.run_after > now);
    }

    #[test]
    fn a_delta_goes_on_by_its_length(months in 0..30u32, seconds in 1..10_000_000u32, at in instant()) {
        let step = Step::from(Delta::months(months).plus(Delta::seconds(seconds)));
        let timetable = DeltaDataInterval::new(step);
        let restriction = TimeRestriction { earliest: None, latest: None, catchup: false };
        let run = timetable.next_dagrun_info(None, &restriction, at).expect("in range").expect("a run");
        prop_assert!(run.data_interval.start < run.run_after);
        // Months are not all of one length, so a start may be off the grid by the days that differ.
        prop_assert!(run.run_after <= at + TimeDelta::days(6 * i64::from(months) + 1));
    }

    #[test]
    fn no_text_makes_the_reader_panic_and_what_it_reads_it_reads_again(text in "[-0-9*/,?LWRH#@() a-z]{0,30}") {
        if let Ok(cron) = CronExpression::parse(&text) {
            let again = CronExpression::parse(cron.canonical()).expect("a canonical text is valid");
            prop_assert_eq!(again.canonical(), cron.canonical());
            prop_assert!(!cron.describe().is_empty());
            let at = utc("2026-01-01T00:00:00Z").naive_utc();
            prop_assert_eq!(again.next_after(at), cron.next_after(at));
        }
    }

    #[test]
    fn no_field_text_makes_the_reader_panic(fields in prop::collection::vec("[-0-9*/,?LWRH#()a-z]{1,6}", 5..8)) {
        let text = fields.join(" ");
        match CronExpression::parse(&text) {
            Ok(cron) => prop_assert!(!cron.describe().is_empty()),
            Err(error) => prop_assert!(error.to_string().contains(&text)),
        }
    }
}
