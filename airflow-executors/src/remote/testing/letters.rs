//! What a worker does with messages that nobody of ours has sent, over any broker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use airflow_core::app::Airflow;
use airflow_core::id::{AttemptId, RunPk};
use airflow_core::secret::Secret;
use airflow_core::store::MemoryStore;
use chrono::DateTime;
use uuid::Uuid;

use super::suite::{Ground, publish_all};
use crate::remote::{Envelope, Message, Purpose, Signer, Worker, WorkerOptions};

fn key(text: &str) -> Secret {
    Secret::new(format!("{text}, of many bytes"))
}

/// One message of each kind that is wrong, with the reason.
fn bad_messages(ours: &Signer, theirs: &Signer) -> Vec<(&'static str, Vec<u8>)> {
    let envelope = Envelope {
        attempt: AttemptId(Uuid::from_u128(7)),
        run: RunPk(1),
        epoch: 1,
        queue: "q".into(),
        dag: "d".into(),
        fingerprint: "f".into(),
        issued_at: DateTime::UNIX_EPOCH,
    };
    let good = envelope.encode(ours).expect("it can be encoded");
    let changed = |at: usize| {
        let mut message = good.clone();
        message[at] ^= 0xff;
        message
    };
    let notice = ours.sign(Purpose::Notice, b"stop", DateTime::UNIX_EPOCH, Uuid::from_u128(1));
    let notice = notice.expect("it is short");
    vec![
        ("truncated", good[..30].to_vec()),
        ("wrong_mac", changed(good.len() - 1)),
        ("unknown_version", changed(0)),
        ("wrong_purpose", notice),
        ("unknown_key", envelope.encode(theirs).expect("it can be encoded")),
        ("too_long", [good.as_slice(), &[0; 100_000]].concat()),
    ]
}

/// Goal: what is forged, broken or too long is kept once with its reason, bounded, and the worker goes on. Method: each
/// kind twice, in two batches, before a worker that has a key of its own.
pub async fn what_nobody_of_ours_sent_is_set_aside_once(ground: &dyn Ground) {
    let transport = ground.transport();
    let [ours, theirs] = ["our key", "their key"].map(|text| Signer::new(&[key(text)]).expect("a key"));
    let bad = bad_messages(&ours, &theirs);
    let airflow = Airflow::builder().store(MemoryStore::new()).build().await.expect("nothing is wrong");
    let (queues, signing_keys) = (vec!["q".to_owned()], vec![key("our key")]);
    let options = WorkerOptions { queues, signing_keys, name: Some("w".into()), ..WorkerOptions::default() };
    let worker = Worker::start(&airflow, Arc::clone(&transport), options).await.expect("it starts");
    let message = |(_, body): &(_, Vec<u8>)| Message { queue: "q".into(), body: body.clone() };
    for times in 1..=2 {
        publish_all(&*transport, bad.iter().map(message).collect()).await;
        while worker.info().counts.bad < times * bad.len() as u64 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let letters = airflow.store().dead_letters(100).await.expect("the store is well");
    let kept: BTreeMap<&str, _> = letters.iter().map(|letter| (letter.reason.as_str(), letter)).collect();
    assert_eq!(letters.len(), bad.len(), "once each: {letters:?}");
    for (reason, body) in &bad {
        let letter = kept.get(reason).unwrap_or_else(|| panic!("`{reason}` is not among {kept:?}"));
        assert_eq!((letter.queue.as_str(), letter.by.as_str()), ("q", "w"));
        assert_eq!(letter.size, body.len() as u64);
        assert!(letter.head.len() <= 400 && !letter.error.is_empty(), "{letter:?}");
        assert_eq!(letter.key_id.is_some(), *reason != "truncated", "{letter:?}");
    }
    worker.stop(Duration::ZERO).await.expect("it says goodbye");
}
