//! The message that says: this attempt waits to be claimed.
//!
//! It carries names and no content: no code, no arguments, no secrets. Who claims the attempt reads the rest from the
//! database. So a message that is lost, doubled, late or from an earlier life of the attempt does no harm.

use airflow_core::id::{AttemptId, DagId, RunPk};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::signer::{HEAD, MessageError, Purpose, Signer, TAIL, time_of};

/// The most bytes of an envelope. Usual ones have under 300; the id of a dag may have 250 characters of up to four
/// bytes.
pub const MAX_ENVELOPE: usize = 2048;

/// The most bytes of the name of a queue.
pub const MAX_QUEUE: usize = 200;

/// The most bytes of a fingerprint.
const MAX_FINGERPRINT: usize = 128;

/// The most bytes of the id of a dag.
const MAX_DAG: usize = 4 * airflow_core::id::MAX_ID_CHARS;

/// An attempt that waits to be claimed.
///
/// ```
/// use airflow_core::id::{AttemptId, RunPk};
/// use airflow_core::secret::Secret;
/// use airflow_executors::remote::{Envelope, Signer};
/// use chrono::DateTime;
/// use uuid::Uuid;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let signer = Signer::new(&[Secret::new("a key of many bytes".into())])?;
/// let envelope = Envelope {
///     attempt: AttemptId(Uuid::now_v7()),
///     run: RunPk(7),
///     epoch: 2,
///     queue: "default".into(),
///     dag: "sales".into(),
///     fingerprint: "5c1e".into(),
///     issued_at: DateTime::UNIX_EPOCH,
/// };
/// let message = envelope.encode(&signer)?;
/// assert!(message.len() < 128);
/// assert_eq!(Envelope::decode(&message, &signer)?, envelope);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The attempt.
    pub attempt: AttemptId,
    /// The run it is of.
    pub run: RunPk,
    /// The epoch at which the instance was queued: with the attempt id what a claim is compared with.
    pub epoch: u32,
    /// The queue it was sent to.
    pub queue: String,
    /// The dag.
    pub dag: DagId,
    /// The version of the dag that it needs.
    pub fingerprint: String,
    /// When it was sent, in whole microseconds by the clock of the sender.
    pub issued_at: DateTime<Utc>,
}

impl Envelope {
    /// The message.
    ///
    /// # Errors
    ///
    /// [`MessageError::BadField`] names a field that is empty or too long.
    pub fn encode(&self, signer: &Signer) -> Result<Vec<u8>, MessageError> {
        let mut body = Vec::with_capacity(128);
        body.extend_from_slice(self.attempt.0.as_bytes());
        body.extend_from_slice(&self.run.0.to_be_bytes());
        body.extend_from_slice(&self.epoch.to_be_bytes());
        body.extend_from_slice(&self.issued_at.timestamp_micros().to_be_bytes());
        for (field, text, max) in [
            ("queue", self.queue.as_str(), MAX_QUEUE),
            ("dag", self.dag.as_str(), MAX_DAG),
            ("fingerprint", self.fingerprint.as_str(), MAX_FINGERPRINT),
        ] {
            check(field, text.len(), max)?;
            let len = u16::try_from(text.len()).expect("all limits are below 2^16");
            body.extend_from_slice(&len.to_be_bytes());
            body.extend_from_slice(text.as_bytes());
        }
        Ok(signer.seal(Purpose::Attempt, &body))
    }

    /// Reads a message. It is from one of ours if this succeeds; whether it still means anything, only the database
    /// knows.
    ///
    /// # Errors
    ///
    /// [`MessageError`] says what is wrong with it: it is to be set aside.
    pub fn decode(message: &[u8], signer: &Signer) -> Result<Self, MessageError> {
        Self::from_body(signer.open(Purpose::Attempt, message, MAX_ENVELOPE)?)
    }

    /// Reads what is signed, without its signature: for what tests the reader.
    ///
    /// # Errors
    ///
    /// As [`decode`](Self::decode).
    #[doc(hidden)]
    pub fn from_body(body: &[u8]) -> Result<Self, MessageError> {
        let mut rest = Rest(body);
        let attempt = AttemptId(Uuid::from_bytes(rest.bytes("attempt")?));
        let run = RunPk(i64::from_be_bytes(rest.bytes("run")?));
        let epoch = u32::from_be_bytes(rest.bytes("epoch")?);
        let issued_at = time_of(i64::from_be_bytes(rest.bytes("time")?))?;
        let queue = rest.text("queue", MAX_QUEUE)?.to_owned();
        let dag = DagId::new(rest.text("dag", MAX_DAG)?);
        let fingerprint = rest.text("fingerprint", MAX_FINGERPRINT)?.to_owned();
        if !rest.0.is_empty() {
            return Err(MessageError::TrailingBytes(rest.0.len()));
        }
        Ok(Self { attempt, run, epoch, queue, dag, fingerprint, issued_at })
    }
}

/// The longest message fits: what can be encoded can be decoded.
const _: () =
    assert!(HEAD + 16 + 8 + 4 + 8 + 3 * 2 + MAX_QUEUE + MAX_DAG + MAX_FINGERPRINT + TAIL <= MAX_ENVELOPE);

fn check(field: &'static str, len: usize, max: usize) -> Result<(), MessageError> {
    match len {
        0 => Err(MessageError::BadField { field, problem: "is empty" }),
        len if len > max => Err(MessageError::BadField { field, problem: "is too long" }),
        _ => Ok(()),
    }
}

/// What was not read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn bytes<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], MessageError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(MessageError::Truncated(field))?;
        self.0 = rest;
        Ok(*head)
    }

    fn text(&mut self, field: &'static str, max: usize) -> Result<&'a str, MessageError> {
        let len = usize::from(u16::from_be_bytes(self.bytes(field)?));
        check(field, len, max)?;
        let (head, rest) = self.0.split_at_checked(len).ok_or(MessageError::Truncated(field))?;
        self.0 = rest;
        std::str::from_utf8(head)
            .map_err(|_| MessageError::BadField { field, problem: "is no text in UTF-8" })
    }
}

#[cfg(test)]
mod tests {
    use airflow_core::secret::Secret;
    use proptest::prelude::*;

    use super::*;

    fn signer(key: &str) -> Signer {
        Signer::new(&[Secret::new(key.to_owned())]).unwrap()
    }

    fn ours() -> Signer {
        signer("a key of many bytes")
    }

    fn envelope() -> Envelope {
        Envelope {
            attempt: AttemptId(Uuid::from_u128(7)),
            run: RunPk(-3),
            epoch: u32::MAX,
            queue: "q".into(),
            dag: "d".into(),
            fingerprint: "f".into(),
            issued_at: DateTime::UNIX_EPOCH,
        }
    }

    /// Goal: each reason is told. Method: one message of each kind, signed where the reader has to get past the MAC.
    #[test]
    fn each_reason_has_its_name() {
        let good = envelope().encode(&ours()).unwrap();
        let body = &good[HEAD..good.len() - TAIL];
        let sealed = |body: &[u8]| ours().seal(Purpose::Attempt, body);
        let (mut version, mut purpose, mut mac) = (good.clone(), good.clone(), good.clone());
        (version[0], purpose[1], mac[HEAD]) = (2, 9, 255);
        let mut text = body.to_vec();
        *text.last_mut().unwrap() = 0xff;
        let mut long = body.to_vec();
        long[36..38].copy_from_slice(&1000_u16.to_be_bytes());
        let mut time = body.to_vec();
        time[28..36].copy_from_slice(&i64::MAX.to_be_bytes());
        let trailing = [body, b"x"].concat();
        for (message, reason) in [
            (vec![], "empty"),
            (vec![1; MAX_ENVELOPE + 1], "too_long"),
            (version, "unknown_version"),
            (purpose, "wrong_purpose"),
            (envelope().encode(&signer("another key of ours")).unwrap(), "unknown_key"),
            (mac, "wrong_mac"),
            (good[..20].to_vec(), "truncated"),
            (sealed(&body[..body.len() - 1]), "truncated"),
            (sealed(&trailing), "trailing_bytes"),
            (sealed(&text), "bad_field"),
            (sealed(&long), "bad_field"),
            (sealed(&time), "bad_field"),
        ] {
            let refused = Envelope::decode(&message, &ours()).unwrap_err();
            assert_eq!(refused.reason(), reason, "{refused}");
        }
    }

    #[test]
    fn what_is_too_long_for_a_message_is_refused_before_it_is_sent() {
        let good = envelope();
        for (name, envelope) in [
            ("queue", Envelope { queue: "q".repeat(MAX_QUEUE + 1), ..good.clone() }),
            ("queue", Envelope { queue: String::new(), ..good.clone() }),
            ("dag", Envelope { dag: "\u{10330}".repeat(251).into(), ..good.clone() }),
            ("fingerprint", Envelope { fingerprint: "f".repeat(MAX_FINGERPRINT + 1), ..good.clone() }),
        ] {
            let refused = envelope.encode(&ours()).unwrap_err();
            assert!(matches!(refused, MessageError::BadField { field, .. } if field == name), "{refused}");
        }
        let mut longest = envelope();
        longest.queue = "q".repeat(MAX_QUEUE);
        longest.dag = "\u{10330}".repeat(250).into();
        longest.fingerprint = "f".repeat(MAX_FINGERPRINT);
        let message = longest.encode(&ours()).unwrap();
        assert_eq!(Envelope::decode(&message, &ours()), Ok(longest));
    }

    prop_compose! {
        fn any_envelope()(
            attempt in any::<u128>(),
            run in any::<i64>(),
            epoch in any::<u32>(),
            queue in "[a-zA-Z0-9._ äß-]{1,40}",
            dag in "\\PC{1,60}",
            fingerprint in "[0-9a-f]{1,64}",
            micros in -8_000_000_000_000_000_i64..8_000_000_000_000_000,
        ) -> Envelope {
            Envelope {
                attempt: AttemptId(Uuid::from_u128(attempt)),
                run: RunPk(run),
                epoch,
                queue,
                dag: dag.into(),
                fingerprint,
                issued_at: DateTime::from_timestamp_micros(micros).expect("in range"),
            }
        }
    }

    proptest! {
        #[test]
        fn reading_gives_what_was_written(envelope in any_envelope()) {
            let message = envelope.encode(&ours()).unwrap();
            prop_assert_eq!(Envelope::decode(&message, &ours()), Ok(envelope));
        }

        #[test]
        fn any_flipped_bit_and_any_cut_is_refused(
            envelope in any_envelope(),
            bit in any::<prop::sample::Index>(),
            cut in any::<prop::sample::Index>(),
            more in 0_u8..,
        ) {
            let message = envelope.encode(&ours()).unwrap();
            let mut flipped = message.clone();
            let bit = bit.index(message.len() * 8);
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Envelope::decode(&flipped, &ours()).is_err());
            prop_assert!(Envelope::decode(&message[..cut.index(message.len())], &ours()).is_err());
            prop_assert!(Envelope::decode(&[&message[..], &[more]].concat(), &ours()).is_err());
        }

        /// Goal: one envelope has one body. Method: whatever can be read is written the same again.
        #[test]
        fn there_is_one_way_to_write_an_envelope(
            envelope in any_envelope(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let message = envelope.encode(&ours()).unwrap();
            let mut body = message[HEAD..message.len() - TAIL].to_vec();
            let at = at.index(body.len());
            body[at] = byte;
            if let Ok(other) = Envelope::from_body(&body) {
                prop_assert_eq!(other.encode(&ours()).unwrap(), ours().seal(Purpose::Attempt, &body));
            }
        }
    }
}
