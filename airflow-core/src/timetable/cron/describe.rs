//! A cron expression as one English sentence, from the numbers it stands for.
//!
//! Working on numbers rather than on the text keeps the sentence right for every spelling: `5-5`
//! reads "every minute", because that is what it does.

use super::{CronExpression, Days, MonthDays, WeekDays, search::Bits};

const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Up to so many times of day are spelled out; more would be a list that nobody reads.
const MAX_TIMES: usize = 6;

/// Up to so many numbers are listed; more are said as a rule where there is one.
const MAX_LISTED: usize = 4;

pub(super) fn describe(cron: &CronExpression) -> String {
    let (mut sentence, at_times) = time(cron);
    match days(&cron.days) {
        Some(days) => sentence = format!("{sentence} {days}"),
        None if at_times => sentence.push_str(" every day"),
        None => {}
    }
    let months: Vec<u32> = cron.month.iter().collect();
    if months.len() < MONTHS.len() {
        let name = |month: u32| MONTHS[month as usize - 1].to_owned();
        sentence = format!("{sentence} in {}", series(&months, name));
    }
    if !cron.years.is_empty() {
        sentence = format!("{sentence} in {}", series(&cron.years, |year| year.to_string()));
    }
    sentence
}

/// The part about the time of day, and whether it lists times such as 06:00.
fn time(cron: &CronExpression) -> (String, bool) {
    let [seconds, minutes, hours] =
        [cron.second, cron.minute, cron.hour].map(|bits| bits.iter().collect::<Vec<_>>());
    let on_the_minute = seconds == [0];
    if hours.len() * minutes.len() <= MAX_TIMES && seconds.len() == 1 {
        let mut times = Vec::new();
        for hour in &hours {
            times.extend(minutes.iter().map(|minute| match seconds[0] {
                0 => format!("{hour:02}:{minute:02}"),
                second => format!("{hour:02}:{minute:02}:{second:02}"),
            }));
        }
        return (format!("At {}", join(&times)), true);
    }
    let mut parts = Vec::new();
    if !on_the_minute {
        parts.push(unit(&seconds, 60, "second", "minute"));
    }
    let hourly = hours.len() == 24;
    match (on_the_minute, minutes.as_slice()) {
        (true, [0]) if hourly => parts.push("every hour".to_owned()),
        (true, [0]) => {}
        (false, _) if minutes.len() == 60 => {}
        _ => parts.push(unit(&minutes, 60, "minute", "hour")),
    }
    if !hourly {
        parts.push(hours_phrase(&hours, minutes == [0] && on_the_minute));
    }
    let sentence = parts.join(", ");
    let mut letters = sentence.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    (first.into_iter().chain(letters).collect(), false)
}

/// "every minute", "every 15 minutes", "at minute 30 of every hour", "at minutes 5 and 35 of .."
fn unit(values: &[u32], span: u32, name: &str, of: &str) -> String {
    match (values, even_step(values, span)) {
        (_, Some(1)) => format!("every {name}"),
        (_, Some(step)) => format!("every {step} {name}s"),
        ([value], _) => format!("at {name} {value} of every {of}"),
        _ => format!("at {name}s {} of every {of}", numbers(values)),
    }
}

fn hours_phrase(hours: &[u32], on_the_hour: bool) -> String {
    let clock = |hour: u32| format!("{hour:02}:00");
    match (hours, even_step(hours, 24), step_of(hours)) {
        (_, Some(step), _) => format!("every {step} hours"),
        ([hour], ..) => format!("from {hour:02}:00 to {hour:02}:59"),
        ([first, .., last], _, Some(1)) if on_the_hour => {
            format!("every hour from {first:02}:00 to {last:02}:00")
        }
        ([first, .., last], _, Some(1)) => format!("from {first:02}:00 to {last:02}:59"),
        ([first, .., last], _, Some(step)) if hours.len() > MAX_LISTED => {
            format!("every {step} hours from {first:02}:00 to {last:02}:00")
        }
        _ if on_the_hour => {
            format!("at {}", join(&hours.iter().map(|hour| clock(*hour)).collect::<Vec<_>>()))
        }
        _ => {
            format!(
                "in the hours that start at {}",
                join(&hours.iter().map(|hour| clock(*hour)).collect::<Vec<_>>())
            )
        }
    }
}

fn days(days: &Days) -> Option<String> {
    let of_month = days.of_month.as_ref().map(|month| month_days(*month));
    let of_week = days.of_week.as_ref().map(week_days);
    match (of_month, of_week) {
        (Some(month), Some(week)) => Some(format!("{month} or {week}")),
        (month, week) => month.or(week),
    }
}

fn month_days(month: MonthDays) -> String {
    let days: Vec<u32> = month.days.iter().collect();
    let last = month.last.then_some("on the last day of the month");
    let listed = match days.as_slice() {
        [] => None,
        [day] => Some(format!("on day {day} of the month")),
        _ if days.len() == 31 => Some("every day".to_owned()),
        _ => Some(format!("on days {} of the month", numbers(&days))),
    };
    listed.into_iter().chain(last.map(str::to_owned)).collect::<Vec<_>>().join(" and ")
}

fn week_days(week: &WeekDays) -> String {
    let name = |day: u32| WEEKDAYS[day as usize % 7].to_owned();
    match week {
        WeekDays::Each(days) => {
            let days = from_monday(*days);
            if days.len() == 7 { "every day".to_owned() } else { format!("on {}", series(&days, name)) }
        }
        WeekDays::Nth(pairs) => {
            let mut phrases = Vec::new();
            for (weekday, places) in pairs {
                let weeks = ["first", "second", "third", "fourth", "fifth"].into_iter().zip(1..);
                let weeks = weeks.filter(|(_, week)| places.weeks >> week & 1 == 1).map(|(word, _)| word);
                let words = weeks.chain(places.last.then_some("last"));
                phrases.extend(words.map(|word| format!("the {word} {}", name(*weekday))));
            }
            format!("on {} of the month", join(&phrases))
        }
    }
}

/// The weekdays in ascending order, with Sunday as 7 behind a Saturday: "Friday to Sunday" is one run,
/// "Sunday, Friday and Saturday" would be two.
fn from_monday(days: Bits) -> Vec<u32> {
    let mut days: Vec<u32> = days.iter().collect();
    if days.first() == Some(&0) && days.contains(&6) && days.len() < 7 {
        days.remove(0);
        days.push(7);
    }
    days
}

/// A list in which runs of three and more become "a to b".
fn series(values: &[u32], name: impl Fn(u32) -> String) -> String {
    let mut phrases = Vec::new();
    for run in values.chunk_by(|left, right| left + 1 == *right) {
        match run {
            [first, _, .., last] => phrases.push(format!("{} to {}", name(*first), name(*last))),
            _ => phrases.extend(run.iter().map(|value| name(*value))),
        }
    }
    join(&phrases)
}

/// As [`series`], but a long arithmetic sequence becomes "every n-th from a to b".
fn numbers(values: &[u32]) -> String {
    match (step_of(values), values) {
        (Some(step @ 2..), [first, .., last]) if values.len() > MAX_LISTED => {
            format!("{first} to {last} in steps of {step}")
        }
        _ => series(values, |value| value.to_string()),
    }
}

/// The distance between neighbours, if it is always the same.
fn step_of(values: &[u32]) -> Option<u32> {
    let step = values.get(1)? - values[0];
    values.windows(2).all(|pair| pair[1] - pair[0] == step).then_some(step)
}

/// The step of a sequence that goes on evenly into the next hour or day.
fn even_step(values: &[u32], span: u32) -> Option<u32> {
    let step = step_of(values)?;
    (values[0] == 0 && values.last()? + step == span).then_some(step)
}

fn join(phrases: &[String]) -> String {
    match phrases {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::CronExpression;

    #[test]
    fn an_expression_reads_as_a_sentence() {
        let table = [
            ("0 6 * * 1-5", "At 06:00 on Monday to Friday"),
            ("@daily", "At 00:00 every day"),
            ("@hourly", "Every hour"),
            ("* * * * *", "Every minute"),
            ("5-5 * * * *", "Every minute"),
            ("*/15 * * * *", "Every 15 minutes"),
            ("*/7 * * * *", "At minutes 0 to 56 in steps of 7 of every hour"),
            ("30 * * * *", "At minute 30 of every hour"),
            ("5,35 * * * *", "At minutes 5 and 35 of every hour"),
            ("0 */2 * * *", "Every 2 hours"),
            ("*/5 9-17 * * *", "Every 5 minutes, from 09:00 to 17:59"),
            ("0 9-17 * * *", "Every hour from 09:00 to 17:00"),
            ("*/20 1,5 * * *", "At 01:00, 01:20, 01:40, 05:00, 05:20 and 05:40 every day"),
            ("*/5 1,5 * * *", "Every 5 minutes, in the hours that start at 01:00 and 05:00"),
            ("23 0-20/2 * * *", "At minute 23 of every hour, every 2 hours from 00:00 to 20:00"),
            ("30 0,12 * * *", "At 00:30 and 12:30 every day"),
            ("0 0 * * SAT-SUN", "At 00:00 on Saturday and Sunday"),
            ("0 0 * * FRI-SUN", "At 00:00 on Friday to Sunday"),
            ("0 0 1,15 * *", "At 00:00 on days 1 and 15 of the month"),
            ("0 0 L * *", "At 00:00 on the last day of the month"),
            ("0 0 */2 * *", "At 00:00 on days 1 to 31 in steps of 2 of the month"),
            ("0 0 1 * MON", "At 00:00 on day 1 of the month or on Monday"),
            ("0 0 * * 5#2", "At 00:00 on the second Friday of the month"),
            ("0 0 * * L5", "At 00:00 on the last Friday of the month"),
            ("0 0 1 JAN,JUL *", "At 00:00 on day 1 of the month in January and July"),
            ("0 6 * 6-8 *", "At 06:00 every day in June to August"),
            ("@quarterly", "At 00:00 on day 1 of the month in January, April, July and October"),
            ("0 6 * * * 30", "At 06:00:30 every day"),
            ("* * * * * */10", "Every 10 seconds"),
            ("* * * * * 30", "At second 30 of every minute"),
            ("0 0 1 1 * 0 2030", "At 00:00 on day 1 of the month in January in 2030"),
        ];
        for (text, sentence) in table {
            let cron = CronExpression::parse(text).expect(text);
            assert_eq!(cron.describe(), sentence, "{text}");
        }
    }
}
