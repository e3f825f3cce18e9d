//! What is fuzzed. Each function takes any bytes and must neither panic nor run long; the laws it asserts hold for
//! everything that is accepted. The corpus of each is run by an ordinary test too (`tests/fuzz_corpus.rs`).

use std::sync::Arc;

use airflow_core::config::Config;
use airflow_core::connection::Connection;
use airflow_core::fernet::Fernet;
use airflow_core::secret::Secret;
use airflow_core::template::{NoLookups, Renderer, TemplateContext};
use airflow_core::timetable::{CronExpression, CronTicks};
use airflow_executors::remote::{Envelope, Purpose, Signer};
use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;

/// Zones with changes of an hour, of half an hour, of a whole day, and none.
const ZONES: [Tz; 5] =
    [Tz::UTC, Tz::America__New_York, Tz::Australia__Lord_Howe, Tz::Pacific__Apia, Tz::Asia__Kolkata];

/// A cron expression, at a moment, in a zone: the first byte chooses the zone, the next four the minute since 1970, the
/// rest is the expression.
pub fn cron(data: &[u8]) {
    let Some((head, text)) = data.split_at_checked(5) else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let Ok(expression) = CronExpression::parse(text) else { return };
    let again = CronExpression::parse(expression.canonical());
    // A random schedule is another one each time.
    if !text.contains(['r', 'R']) {
        assert_eq!(again.as_ref().map(CronExpression::canonical), Ok(expression.canonical()), "{text}");
    }
    let _ = expression.describe();
    let ticks = CronTicks::new(expression, ZONES[usize::from(head[0]) % ZONES.len()]);
    let minutes = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
    let start: DateTime<Utc> = DateTime::UNIX_EPOCH + TimeDelta::minutes(i64::from(minutes % 100_000_000));
    let mut at = start;
    for _ in 0..3 {
        let Ok(next) = ticks.next(at) else { break };
        assert!(next > at, "{text}: the next tick after {at} is {next}");
        at = next;
    }
    let mut at = start;
    for _ in 0..3 {
        let Ok(prev) = ticks.prev(at) else { break };
        // Ticks go by the clocks on the wall: what these show twice or leave out makes a tick come later than they say.
        assert!(prev - at <= TimeDelta::days(1), "{text}: the tick before {at} is {prev}");
        at = prev;
    }
}

/// A template, strict and native.
pub fn template(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let context = || TemplateContext {
        dag_id: "d".into(),
        task_id: "t".into(),
        run_id: "r".into(),
        run_type: "manual".into(),
        logical_date: DateTime::from_timestamp(1_700_000_000, 0),
        ..TemplateContext::default()
    };
    let _ = Renderer::new(context(), Arc::new(NoLookups)).render_str(text);
    let _ = Renderer::new(context(), Arc::new(NoLookups)).with_native(true).render_native(text);
}

/// A connection as a URI or JSON, and a token.
pub fn connection(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(connection) = Connection::from_text("c", text) {
        let _ = connection.extra_json();
        let _ = Connection::from_text("c", &connection.to_uri());
        let again = Connection::from_value("c", connection.to_json());
        assert!(again.is_ok(), "{text}: {again:?}");
    }
    let fernet = Fernet::new("cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=").expect("a sound key");
    let _ = fernet.decrypt(text);
    let _ = fernet.rotate(text);
    let _ = Fernet::new(text);
}

/// A configuration file. Only options that are no secrets are read: those of secrets may name commands.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(config) = Config::parse(text) else { return };
    for (section, key) in [("core", "parallelism"), ("s", "k"), ("scheduler", "a"), ("DEFAULT", "b")] {
        let _ = config.text(section, key);
        let _ = config.boolean(section, key);
        let _ = config.int(section, key);
        let _ = config.float(section, key);
        let _ = config.list(section, key);
        let _ = config.json(section, key);
        let _ = config.seconds(section, key);
    }
}

/// A message from a broker: as it comes, and what would be inside of a signature, which no fuzzer guesses.
pub fn envelope(data: &[u8]) {
    let signer = Signer::new(&[Secret::new("a key of many bytes".into())]).expect("a sound key");
    let now = DateTime::UNIX_EPOCH;
    for purpose in [Purpose::Control, Purpose::Notice] {
        let _ = signer.verify(purpose, data, now);
    }
    let decoded = Envelope::decode(data, &signer);
    for envelope in [decoded, Envelope::from_body(data)].into_iter().flatten() {
        let message = envelope.encode(&signer).expect("what was read can be written");
        assert_eq!(Envelope::decode(&message, &signer), Ok(envelope));
    }
}
