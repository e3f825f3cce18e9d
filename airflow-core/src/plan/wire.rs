//! A report as text: how an attempt that ran in another process ended, as it stands in the store.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::asset::{Asset, OutletEvent};
use crate::operator::Deferral;
use crate::plan::{Outcome, Report};
use crate::store::LogChunk;
use crate::xcom::XComValue;

/// What of a report is written down; the rest stands in columns.
#[derive(Debug, Serialize, Deserialize)]
struct Body {
    outcome: End,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pushed: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    assets: Vec<NewAsset>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rendered: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    log: Option<LogChunk>,
}

/// What an attempt said of an asset.
#[derive(Debug, Serialize, Deserialize)]
struct NewAsset {
    name: String,
    uri: String,
    group: String,
    aliases: Vec<String>,
    extra: Value,
}

impl From<&OutletEvent> for NewAsset {
    fn from(event: &OutletEvent) -> Self {
        Self {
            name: event.asset.name().to_owned(),
            uri: event.asset.uri().to_owned(),
            group: event.asset.group_name().to_owned(),
            aliases: event.aliases.clone(),
            extra: event.extra.clone(),
        }
    }
}

impl From<NewAsset> for OutletEvent {
    fn from(new: NewAsset) -> Self {
        let asset = Asset::new(new.uri).named(new.name).group(new.group);
        Self { asset, aliases: new.aliases, extra: new.extra }
    }
}

/// What a stored report says beside where it belongs.
#[derive(Debug)]
pub struct Said {
    /// How the attempt ended.
    pub outcome: Outcome,
    /// The values it pushed.
    pub pushed: Vec<(String, Arc<XComValue>)>,
    /// What it says of assets.
    pub asset_events: Vec<OutletEvent>,
    /// Its rendered fields.
    pub rendered: Option<Value>,
    /// The end of its log, if it was not handed over by another way.
    pub log: Option<LogChunk>,
}

/// An outcome. Values are JSON as text, so that they are stored as they were written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum End {
    Success {
        value: Option<String>,
    },
    Failed {
        error: String,
        retryable: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after_micros: Option<u64>,
    },
    Skipped {
        reason: String,
    },
    Rescheduled {
        at: DateTime<Utc>,
    },
    Deferred {
        trigger: String,
        args: Value,
        method: String,
        kwargs: Value,
        timeout_micros: Option<u64>,
    },
    Cancelled,
    HandedBack,
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// What a report says, as text. `None` for the ends that only the process knows that decides: what was lost, and what a
/// wait has waited for.
pub fn to_body(report: &Report) -> Option<String> {
    let outcome = match &report.outcome {
        Outcome::Success(value) => {
            End::Success { value: value.as_ref().map(|value| value.text().to_owned()) }
        }
        Outcome::Failed { error, retryable, after } => {
            End::Failed { error: error.clone(), retryable: *retryable, after_micros: after.map(micros) }
        }
        Outcome::Skipped(reason) => End::Skipped { reason: reason.clone() },
        Outcome::Rescheduled(at) => End::Rescheduled { at: *at },
        Outcome::Deferred(deferral) => End::Deferred {
            trigger: deferral.kind.clone(),
            args: deferral.args.clone(),
            method: deferral.method.clone(),
            kwargs: deferral.kwargs.clone(),
            timeout_micros: deferral.timeout.map(micros),
        },
        Outcome::Cancelled => End::Cancelled,
        Outcome::HandedBack => End::HandedBack,
        Outcome::Lost | Outcome::Fired(_) => return None,
    };
    let pushed = report.pushed.iter().map(|(key, value)| (key.clone(), value.text().to_owned())).collect();
    let assets = report.asset_events.iter().map(NewAsset::from).collect();
    let body = Body { outcome, pushed, assets, rendered: report.rendered.clone(), log: report.log.clone() };
    Some(serde_json::to_string(&body).expect("texts and JSON values are always JSON"))
}

/// What became of the attempt. Text that cannot be read is a failed attempt that says so.
pub fn from_body(text: &str) -> Said {
    let body: Body = match serde_json::from_str(text) {
        Ok(body) => body,
        Err(error) => {
            let error = format!("the worker's report cannot be read: {error}; is it of another version?");
            let outcome = Outcome::Failed { error, retryable: true, after: None };
            return Said { outcome, pushed: Vec::new(), asset_events: Vec::new(), rendered: None, log: None };
        }
    };
    let outcome = match body.outcome {
        End::Success { value } => Outcome::Success(value.map(XComValue::from_text)),
        End::Failed { error, retryable, after_micros } => {
            Outcome::Failed { error, retryable, after: after_micros.map(Duration::from_micros) }
        }
        End::Skipped { reason } => Outcome::Skipped(reason),
        End::Rescheduled { at } => Outcome::Rescheduled(at),
        End::Deferred { trigger, args, method, kwargs, timeout_micros } => Outcome::Deferred(Box::new(
            Deferral::from_parts(trigger, args, method, kwargs, timeout_micros.map(Duration::from_micros)),
        )),
        End::Cancelled => Outcome::Cancelled,
        End::HandedBack => Outcome::HandedBack,
    };
    let value = |(key, text): (String, String)| (key, XComValue::from_text(text));
    Said {
        outcome,
        pushed: body.pushed.into_iter().map(value).collect(),
        asset_events: body.assets.into_iter().map(OutletEvent::from).collect(),
        rendered: body.rendered,
        log: body.log,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::id::{AttemptId, MapIndex, RunPk, TaskIdx, TiKey};

    fn report(outcome: Outcome, pushed: Vec<(String, Arc<XComValue>)>, rendered: Option<Value>) -> Report {
        Report {
            run: RunPk(1),
            key: TiKey { task: TaskIdx(0), map: MapIndex::UNMAPPED },
            attempt_id: AttemptId(Uuid::nil()),
            outcome,
            pushed,
            asset_events: vec![OutletEvent {
                asset: Asset::new("s3://lake/a").named("a").group("lake"),
                aliases: vec!["any".into()],
                extra: serde_json::json!({ "rows": 5 }),
            }],
            rendered,
            log: Some(LogChunk {
                attempt_id: AttemptId(Uuid::nil()),
                chunk: 7,
                at: DateTime::UNIX_EPOCH,
                text: "the end\n".into(),
            }),
            at: DateTime::UNIX_EPOCH,
        }
    }

    fn outcomes() -> impl Strategy<Value = Outcome> {
        let millis = |n: u32| Duration::from_millis(u64::from(n));
        let failed = (any::<String>(), any::<bool>(), any::<Option<u32>>());
        let deferred = (any::<String>(), any::<String>(), any::<i64>(), any::<Option<u32>>());
        prop_oneof![
            any::<Option<String>>().prop_map(|v| Outcome::Success(v.map(XComValue::from_text))),
            failed.prop_map(move |(error, retryable, after)| Outcome::Failed {
                error,
                retryable,
                after: after.map(millis)
            }),
            any::<String>().prop_map(Outcome::Skipped),
            any::<u32>().prop_map(move |n| Outcome::Rescheduled(DateTime::UNIX_EPOCH + millis(n))),
            deferred.prop_map(move |(kind, method, args, timeout)| {
                Outcome::Deferred(Box::new(Deferral::from_parts(
                    kind,
                    args.into(),
                    method,
                    Value::Null,
                    timeout.map(millis),
                )))
            }),
            Just(Outcome::Cancelled),
            Just(Outcome::HandedBack),
        ]
    }

    proptest! {
        /// Goal: whatever a worker reports arrives as it was said.
        #[test]
        fn reports_survive_the_store(
            outcome in outcomes(),
            pushed in proptest::collection::vec((any::<String>(), any::<String>()), 0..4),
            rendered in any::<Option<String>>(),
        ) {
            let pushed = pushed.into_iter().map(|(key, text)| (key, XComValue::from_text(text))).collect();
            let said = report(outcome, pushed, rendered.map(Value::from));
            let Said { outcome, pushed, asset_events, rendered, log } = from_body(&to_body(&said).unwrap());
            let heard = Report { asset_events, log, ..report(outcome, pushed, rendered) };
            prop_assert_eq!(format!("{said:?}"), format!("{heard:?}"));
        }

        #[test]
        fn any_text_is_read(text in any::<String>()) {
            let _ = from_body(&text);
        }
    }

    #[test]
    fn what_cannot_be_read_is_a_failure_that_says_so() {
        let Said { outcome, .. } = from_body("{}");
        let Outcome::Failed { error, retryable: true, .. } = outcome else { panic!("{outcome:?}") };
        assert!(error.starts_with("the worker's report cannot be read: missing field `outcome`"), "{error}");
    }

    #[test]
    fn a_worker_cannot_say_that_it_was_lost() {
        assert_eq!(to_body(&report(Outcome::Lost, vec![], None)), None);
        assert_eq!(to_body(&report(Outcome::Fired(Value::Null), vec![], None)), None);
    }
}
