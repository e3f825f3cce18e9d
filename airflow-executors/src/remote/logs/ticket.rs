//! What lets its bearer read one log file of one worker, for a short time.
//!
//! It says nothing about how much of the file: who follows a log would need a new one for each look. Shown a second time
//! in its time it opens the same file again, and no other one.

use airflow_core::secret::Secret;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::remote::signer::{MessageError, Purpose, Signer, hex};

/// How long it is good for. The reader makes it for one request; the rest is for clocks that disagree.
const LIFETIME: TimeDelta = TimeDelta::minutes(3);

/// In which header it is shown: `Authorization: Airflow 0104…`.
const SCHEME: &str = "Airflow ";

#[derive(Serialize, Deserialize)]
struct Ticket {
    worker: String,
    path: String,
    until: DateTime<Utc>,
}

/// Why somebody gets nothing to read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("no ticket is shown")]
    Missing,
    #[error("what is shown is no ticket")]
    Unreadable,
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("the ticket is for the worker `{0}`")]
    OtherWorker(String),
    #[error("the ticket is for the file `{0}`")]
    OtherPath(String),
    #[error("the ticket was good until {0}; it was kept back, or clocks disagree")]
    Expired(DateTime<Utc>),
}

/// A ticket for a file, as the value of a header.
pub(super) fn write(
    signer: &Signer,
    worker: &str,
    path: &str,
    now: DateTime<Utc>,
) -> Result<Secret, MessageError> {
    let ticket = Ticket { worker: worker.to_owned(), path: path.to_owned(), until: now + LIFETIME };
    let payload = serde_json::to_vec(&ticket).expect("texts and a time are always JSON");
    let message = signer.sign(Purpose::Log, &payload, now, Uuid::new_v4())?;
    Ok(Secret::new(format!("{SCHEME}{}", hex(&message))))
}

/// Whether a header lets its bearer read a file of a worker now.
pub(super) fn check(
    signer: &Signer,
    shown: Option<&str>,
    worker: &str,
    path: &str,
    now: DateTime<Utc>,
) -> Result<(), Refusal> {
    let shown = shown.ok_or(Refusal::Missing)?;
    let message = shown.strip_prefix(SCHEME).and_then(bytes).ok_or(Refusal::Unreadable)?;
    let signed = signer.verify(Purpose::Log, &message, now)?;
    let ticket: Ticket = serde_json::from_slice(&signed.payload).map_err(|_| Refusal::Unreadable)?;
    if ticket.worker != worker {
        return Err(Refusal::OtherWorker(ticket.worker));
    }
    if ticket.path != path {
        return Err(Refusal::OtherPath(ticket.path));
    }
    if ticket.until < now {
        return Err(Refusal::Expired(ticket.until));
    }
    Ok(())
}

/// The bytes that were written as hexadecimal digits.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
        u8::from_str_radix(pair, 16).ok().filter(|_| !pair.starts_with('+'))
    });
    digits.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(key: &str) -> Signer {
        Signer::new(&[Secret::new(key.to_owned())]).unwrap()
    }

    fn at(minutes: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::minutes(minutes)
    }

    /// Goal: a ticket is good for its file on its worker in its time, and for nothing else.
    #[test]
    fn a_ticket_is_good_for_one_file_and_a_short_time() {
        let signer = signer("a key of many bytes");
        let ticket = write(&signer, "w", "a/b.log", at(100)).unwrap();
        let check = |worker: &str, path: &str, now| {
            check(&signer, Some(ticket.expose()), worker, path, now).map_err(|refusal| refusal.to_string())
        };
        for now in [at(99), at(100), at(103)] {
            assert_eq!(check("w", "a/b.log", now), Ok(()));
        }
        let wrong = [
            (check("w", "a/c.log", at(100)), "for the file `a/b.log`"),
            (check("v", "a/b.log", at(100)), "for the worker `w`"),
            (check("w", "a/b.log", at(104)), "was good until 1970-01-01 01:43:00 UTC"),
            (check("w", "a/b.log", at(200)), "more than 10 minutes away"),
            (check("w", "a/b.log", at(80)), "more than 10 minutes away"),
        ];
        for (refused, why) in wrong {
            assert!(refused.as_ref().is_err_and(|refusal| refusal.contains(why)), "{why}: {refused:?}");
        }
    }

    /// Goal: nobody makes or changes a ticket without the key. Method: each digit changed, each end cut off, other keys,
    /// messages for other purposes, and what is no ticket at all.
    #[test]
    fn what_is_forged_is_refused() {
        let ours = signer("a key of many bytes");
        let ticket = write(&ours, "w", "a.log", at(0)).unwrap();
        let ticket = ticket.expose();
        let refuses = |shown: Option<&str>| check(&ours, shown, "w", "a.log", at(0)).is_err();
        assert!(!refuses(Some(ticket)) && refuses(None) && refuses(Some("")));
        for place in SCHEME.len()..ticket.len() {
            let mut other = ticket.as_bytes().to_vec();
            other[place] = if other[place] == b'0' { b'1' } else { b'0' };
            assert!(refuses(Some(std::str::from_utf8(&other).unwrap())), "digit {place}");
            assert!(refuses(Some(&ticket[..place])), "up to {place}");
        }
        let theirs = write(&signer("another key of many"), "w", "a.log", at(0)).unwrap();
        assert!(refuses(Some(theirs.expose())));
        let order = ours.sign(Purpose::Control, b"{}", at(0), Uuid::nil()).unwrap();
        assert!(refuses(Some(&format!("{SCHEME}{}", hex(&order)))));
        for shown in ["Bearer abc", "Airflow xyz", "Airflow +1+2", "Airflow é", &format!("Basic {ticket}")] {
            assert!(refuses(Some(shown)), "{shown}");
        }
    }
}
