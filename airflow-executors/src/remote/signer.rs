//! Messages that only ours can have written.
//!
//! A broker is not trusted: whoever reaches it can read and write. So all that goes through it carries a MAC under a
//! key that schedulers, workers and whoever controls them share. Nothing is encrypted, as nothing in it is secret.
//!
//! ```text
//! version 1 | purpose 1 | key id 8 | payload | MAC 32, over all before
//! ```

use std::fmt;

use airflow_core::secret::Secret;
use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use uuid::Uuid;

/// The version of all that is signed here. A reader of another one refuses it.
pub const VERSION: u8 = 1;

/// How old, or how far ahead of our clock, a signed message may be: time to cross a slow broker and for clocks that
/// disagree, and no time to collect messages for later use.
pub const MAX_AGE: TimeDelta = TimeDelta::minutes(10);

/// The most bytes that [`Signer::sign`] takes. What is larger belongs into the database.
pub const MAX_PAYLOAD: usize = 16 * 1024;

/// The shortest key, in bytes: what is shorter can be tried out.
pub const MIN_KEY: usize = 16;

/// Version, purpose, key id.
pub(super) const HEAD: usize = 1 + 1 + KEY_ID;
/// The MAC.
pub(super) const TAIL: usize = 32;
const KEY_ID: usize = 8;
/// Nonce and time of a signed payload.
const STAMP: usize = 16 + 8;

/// What a signed message is for. One that was made for one purpose is refused for any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Purpose {
    /// An attempt that waits to be claimed: [`Envelope`](super::Envelope).
    Attempt,
    /// An order to workers: stop, listen to other queues.
    Control,
    /// Something that others may want to know at once.
    Notice,
    /// Leave to read a log file of a worker.
    Log,
}

impl Purpose {
    fn byte(self) -> u8 {
        match self {
            Self::Attempt => 1,
            Self::Control => 2,
            Self::Notice => 3,
            Self::Log => 4,
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Attempt => "attempt",
            Self::Control => "control message",
            Self::Notice => "notice",
            Self::Log => "ticket for a log",
        })
    }
}

/// Why keys cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// None was given.
    #[error(
        "no key to sign messages with: give schedulers and workers the same one, of at least {MIN_KEY} bytes"
    )]
    None,
    /// One that can be guessed.
    #[error("key {number} to sign messages with has {len} bytes; give at least {MIN_KEY} random ones")]
    Short {
        /// Which, 1 for the first.
        number: usize,
        /// Its length.
        len: usize,
    },
    /// The same one again.
    #[error("keys {first} and {second} to sign messages with are the same; remove one")]
    Twice {
        /// Which, 1 for the first.
        first: usize,
        /// And which other one.
        second: usize,
    },
}

/// Why a message is refused. What is refused is set aside, and never guessed at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// Nothing in it.
    #[error("the message is empty")]
    Empty,
    /// More than any of ours has.
    #[error("the message has {len} bytes, at most {max} are allowed")]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// Of another release, or of somebody else.
    #[error(
        "the message has the version {0}, this release reads {VERSION}; upgrade this process, or who sent it"
    )]
    UnknownVersion(u8),
    /// Made for something else.
    #[error("the message is no {expected}: its purpose is number {found}")]
    WrongPurpose {
        /// What it should be.
        expected: Purpose,
        /// The number it has.
        found: u8,
    },
    /// Signed with a key that this process was not given.
    #[error("the message is signed with the unknown key {0}; give all processes the same keys")]
    UnknownKey(String),
    /// Changed on the way, or forged.
    #[error("the message was changed on its way, or forged: its MAC is wrong")]
    WrongMac,
    /// It ends too early.
    #[error("the message ends in the middle of its {0}")]
    Truncated(&'static str),
    /// It goes on after its end.
    #[error("the message has {0} bytes after its end")]
    TrailingBytes(usize),
    /// A part of it that cannot be.
    #[error("the {field} of the message {problem}")]
    BadField {
        /// Which.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Older than [`MAX_AGE`], or from the future.
    #[error("the message is of {at}, more than {} minutes away from now; it was kept back, or clocks disagree", MAX_AGE.num_minutes())]
    Stale {
        /// When it says it was made.
        at: DateTime<Utc>,
    },
}

impl MessageError {
    /// A word for counters and for the record of what was set aside.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooLong { .. } => "too_long",
            Self::UnknownVersion(_) => "unknown_version",
            Self::WrongPurpose { .. } => "wrong_purpose",
            Self::UnknownKey(_) => "unknown_key",
            Self::WrongMac => "wrong_mac",
            Self::Truncated(_) => "truncated",
            Self::TrailingBytes(_) => "trailing_bytes",
            Self::BadField { .. } => "bad_field",
            Self::Stale { .. } => "stale",
        }
    }
}

/// What was signed, and is really from one of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// What it says.
    pub payload: Vec<u8>,
    /// When it was made, by the clock of who made it.
    pub issued_at: DateTime<Utc>,
    /// Its own: of two copies one is a repetition.
    pub nonce: Uuid,
}

#[derive(Clone)]
struct Key {
    id: [u8; KEY_ID],
    mac: Hmac<Sha256>,
}

/// Signs messages and knows signed ones. Cheap to clone.
///
/// The first key signs, all verify. To change keys without losing a message: give all processes `old,new`, then
/// `new,old`, then `new`.
///
/// ```
/// use airflow_executors::remote::{MessageError, Purpose, Signer};
/// use airflow_core::secret::Secret;
/// use chrono::Utc;
/// use uuid::Uuid;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let signer = Signer::new(&[Secret::new("a key of many bytes".into())])?;
/// let now = Utc::now();
/// let message = signer.sign(Purpose::Control, b"drain", now, Uuid::new_v4())?;
/// assert_eq!(signer.verify(Purpose::Control, &message, now)?.payload, b"drain");
/// let other = signer.verify(Purpose::Notice, &message, now);
/// assert!(matches!(other, Err(MessageError::WrongPurpose { .. })));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Signer {
    /// Never empty.
    keys: Vec<Key>,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<String> = self.keys.iter().map(|key| hex(&key.id)).collect();
        f.debug_struct("Signer").field("keys", &ids).finish()
    }
}

impl Signer {
    /// A signer with these keys, of at least [`MIN_KEY`] bytes each.
    ///
    /// # Errors
    ///
    /// [`KeyError`] names the key that cannot be used.
    pub fn new(keys: &[Secret]) -> Result<Self, KeyError> {
        let mut ready: Vec<Key> = Vec::with_capacity(keys.len());
        for (at, key) in keys.iter().enumerate() {
            let bytes = key.expose().as_bytes();
            if bytes.len() < MIN_KEY {
                return Err(KeyError::Short { number: at + 1, len: bytes.len() });
            }
            let mac = Hmac::<Sha256>::new_from_slice(bytes).expect("HMAC takes keys of any length");
            // A name that tells keys apart and says nothing about them.
            let digest = mac.clone().chain_update(b"airflow message key id").finalize().into_bytes();
            let mut id = [0; KEY_ID];
            id.copy_from_slice(&digest[..KEY_ID]);
            if let Some(same) = ready.iter().position(|other| other.id == id) {
                return Err(KeyError::Twice { first: same + 1, second: at + 1 });
            }
            ready.push(Key { id, mac });
        }
        if ready.is_empty() { Err(KeyError::None) } else { Ok(Self { keys: ready }) }
    }

    /// Signs a payload. `nonce` is to be random and new each time.
    ///
    /// # Errors
    ///
    /// [`MessageError::TooLong`] over [`MAX_PAYLOAD`]; [`MessageError::BadField`] for [`Purpose::Attempt`], of which only
    /// an [`Envelope`](super::Envelope) is one.
    pub fn sign(
        &self,
        purpose: Purpose,
        payload: &[u8],
        now: DateTime<Utc>,
        nonce: Uuid,
    ) -> Result<Vec<u8>, MessageError> {
        if purpose == Purpose::Attempt {
            return Err(MessageError::BadField { field: "purpose", problem: "is that of an envelope" });
        }
        if payload.len() > MAX_PAYLOAD {
            return Err(MessageError::TooLong { len: payload.len(), max: MAX_PAYLOAD });
        }
        let mut body = Vec::with_capacity(STAMP + payload.len());
        body.extend_from_slice(nonce.as_bytes());
        body.extend_from_slice(&now.timestamp_micros().to_be_bytes());
        body.extend_from_slice(payload);
        Ok(self.seal(purpose, &body))
    }

    /// Reads what [`sign`](Self::sign) made for this purpose.
    ///
    /// # Errors
    ///
    /// [`MessageError`]: it is not one of ours, was made for something else, or too long ago.
    pub fn verify(
        &self,
        purpose: Purpose,
        message: &[u8],
        now: DateTime<Utc>,
    ) -> Result<Signed, MessageError> {
        let body = self.open(purpose, message, HEAD + STAMP + MAX_PAYLOAD + TAIL)?;
        let (nonce, rest) = body.split_first_chunk::<16>().ok_or(MessageError::Truncated("nonce"))?;
        let (at, payload) = rest.split_first_chunk::<8>().ok_or(MessageError::Truncated("time"))?;
        let issued_at = time_of(i64::from_be_bytes(*at))?;
        if (now - issued_at).abs() > MAX_AGE {
            return Err(MessageError::Stale { at: issued_at });
        }
        Ok(Signed { payload: payload.to_vec(), issued_at, nonce: Uuid::from_bytes(*nonce) })
    }

    /// Puts head and MAC around a body.
    pub(super) fn seal(&self, purpose: Purpose, body: &[u8]) -> Vec<u8> {
        let key = self.keys.first().expect("a signer has a key");
        let mut message = Vec::with_capacity(HEAD + body.len() + TAIL);
        message.extend_from_slice(&[VERSION, purpose.byte()]);
        message.extend_from_slice(&key.id);
        message.extend_from_slice(body);
        let mac = key.mac.clone().chain_update(&message).finalize().into_bytes();
        message.extend_from_slice(&mac);
        message
    }

    /// The body of a message, if one of ours made it for this purpose.
    pub(super) fn open<'a>(
        &self,
        purpose: Purpose,
        message: &'a [u8],
        max: usize,
    ) -> Result<&'a [u8], MessageError> {
        let version = *message.first().ok_or(MessageError::Empty)?;
        if message.len() > max {
            return Err(MessageError::TooLong { len: message.len(), max });
        }
        if version != VERSION {
            return Err(MessageError::UnknownVersion(version));
        }
        if message.len() < HEAD + TAIL {
            return Err(MessageError::Truncated("frame"));
        }
        if message[1] != purpose.byte() {
            return Err(MessageError::WrongPurpose { expected: purpose, found: message[1] });
        }
        let id = &message[2..HEAD];
        let Some(key) = self.keys.iter().find(|key| key.id == id) else {
            return Err(MessageError::UnknownKey(hex(id)));
        };
        let (signed, mac) = message.split_at(message.len() - TAIL);
        // In constant time: a forger must not learn how much of a MAC is right.
        key.mac.clone().chain_update(signed).verify_slice(mac).map_err(|_| MessageError::WrongMac)?;
        Ok(&signed[HEAD..])
    }
}

/// A time in microseconds since 1970.
pub(super) fn time_of(micros: i64) -> Result<DateTime<Utc>, MessageError> {
    DateTime::from_timestamp_micros(micros)
        .ok_or(MessageError::BadField { field: "time", problem: "is out of range" })
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn signer(keys: &[&str]) -> Signer {
        let keys: Vec<Secret> = keys.iter().map(|key| Secret::new((*key).to_owned())).collect();
        Signer::new(&keys).unwrap()
    }

    fn at(minutes: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::minutes(minutes)
    }

    const OLD: &str = "an old key of ours";
    const NEW: &str = "a new key of ours, longer";

    #[test]
    fn keys_that_cannot_serve_are_named() {
        let new = |keys: &[&str]| {
            let keys: Vec<Secret> = keys.iter().map(|key| Secret::new((*key).to_owned())).collect();
            Signer::new(&keys).unwrap_err()
        };
        assert_eq!(new(&[]), KeyError::None);
        assert_eq!(new(&[OLD, "short"]), KeyError::Short { number: 2, len: 5 });
        assert_eq!(new(&[OLD, NEW, OLD]), KeyError::Twice { first: 1, second: 3 });
        assert!(!format!("{:?}", signer(&[OLD])).contains("old"));
    }

    /// Goal: keys change without losing a message. Method: each step of the change understands the one before and
    /// the one after.
    #[test]
    fn the_first_key_signs_and_all_verify() {
        let steps = [signer(&[OLD]), signer(&[OLD, NEW]), signer(&[NEW, OLD]), signer(&[NEW])];
        for pair in steps.windows(2) {
            for (from, to) in [(&pair[0], &pair[1]), (&pair[1], &pair[0])] {
                let message = from.sign(Purpose::Notice, b"x", at(0), Uuid::nil()).unwrap();
                assert_eq!(to.verify(Purpose::Notice, &message, at(0)).unwrap().payload, b"x");
            }
        }
        let message = steps[0].sign(Purpose::Notice, b"x", at(0), Uuid::nil()).unwrap();
        let refused = steps[3].verify(Purpose::Notice, &message, at(0)).unwrap_err();
        assert!(matches!(refused, MessageError::UnknownKey(_)), "{refused}");
    }

    #[test]
    fn what_was_kept_back_is_refused() {
        let signer = signer(&[OLD]);
        let message = signer.sign(Purpose::Control, b"stop", at(100), Uuid::nil()).unwrap();
        for (now, fits) in [(90, true), (110, true), (89, false), (111, false), (100_000, false)] {
            let read = signer.verify(Purpose::Control, &message, at(now));
            assert_eq!(read.is_ok(), fits, "{now}: {read:?}");
        }
    }

    #[test]
    fn too_much_is_refused_on_both_sides() {
        let signer = signer(&[OLD]);
        assert!(signer.sign(Purpose::Attempt, b"x", at(0), Uuid::nil()).is_err());
        let limit = signer.sign(Purpose::Notice, &vec![7; MAX_PAYLOAD], at(0), Uuid::nil()).unwrap();
        assert!(signer.verify(Purpose::Notice, &limit, at(0)).is_ok());
        let over = signer.sign(Purpose::Notice, &vec![7; MAX_PAYLOAD + 1], at(0), Uuid::nil());
        assert!(matches!(over, Err(MessageError::TooLong { .. })));
        let over = signer.verify(Purpose::Notice, &vec![1; 1_000_000], at(0));
        assert!(matches!(over, Err(MessageError::TooLong { .. })));
    }

    proptest! {
        #[test]
        fn what_was_signed_is_read_and_nothing_else(
            payload in proptest::collection::vec(any::<u8>(), 0..100),
            nonce in any::<u128>(),
            bit in any::<prop::sample::Index>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let signer = signer(&[OLD, NEW]);
            let nonce = Uuid::from_u128(nonce);
            let message = signer.sign(Purpose::Control, &payload, at(5), nonce).unwrap();
            let read = signer.verify(Purpose::Control, &message, at(5)).unwrap();
            prop_assert_eq!(read, Signed { payload, issued_at: at(5), nonce });
            prop_assert!(signer.verify(Purpose::Notice, &message, at(5)).is_err());
            prop_assert!(signer.verify(Purpose::Attempt, &message, at(5)).is_err());

            let mut flipped = message.clone();
            let bit = bit.index(message.len() * 8);
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(signer.verify(Purpose::Control, &flipped, at(5)).is_err());
            let cut = cut.index(message.len());
            prop_assert!(signer.verify(Purpose::Control, &message[..cut], at(5)).is_err());
        }
    }
}
