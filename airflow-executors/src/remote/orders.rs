//! Orders to one worker: sent through the broker, signed, obeyed once.

use std::collections::VecDeque;

use airflow_core::id::IncarnationId;
use airflow_core::time::Clock;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::signer::{Purpose, Signer};
use super::transport::{Transport, TransportError};

/// Where orders are announced.
pub(super) const ORDERS: &str = "orders";

/// How many orders a worker remembers to have obeyed. A copy is either among them or too old to be read.
const REMEMBERED: usize = 64;

/// How many attempts a worker may run at once, between two limits (Celery's `--autoscale`).
///
/// It grows at once when all slots are taken, and shrinks when some have been free for half a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Autoscale {
    /// At most.
    pub max: usize,
    /// At least.
    pub min: usize,
}

impl std::str::FromStr for Autoscale {
    type Err = String;

    /// Reads `max,min`, as Celery does: `10,3`. Without the second number it is 0 there; here it is 1.
    fn from_str(text: &str) -> Result<Self, String> {
        let (max, min) = text.split_once(',').unwrap_or((text, "1"));
        let number = |text: &str| text.trim().parse::<usize>().ok().filter(|n| *n > 0);
        match (number(max), number(min)) {
            (Some(max), Some(min)) if min <= max => Ok(Self { max, min }),
            (Some(max), Some(min)) => {
                Err(format!("at most {max} and at least {min} cannot be; write the larger number first"))
            }
            _ => Err("write two whole numbers above 0, the larger one first, such as `10,3`".to_owned()),
        }
    }
}

impl std::fmt::Display for Autoscale {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{},{}", self.max, self.min)
    }
}

/// What a worker can be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerOrder {
    /// Take no new work, finish what runs, and end.
    Shutdown,
    /// Run this many attempts more at once. With autoscale: the largest number grows.
    Grow(usize),
    /// Run this many attempts less at once. What runs goes on. With autoscale: the largest number shrinks.
    Shrink(usize),
    /// Grow and shrink between these from now on.
    Autoscale(Autoscale),
    /// Take work from this queue as well.
    AddQueue(String),
    /// Take no more work from this queue.
    DropQueue(String),
}

/// An order with its address.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Letter {
    /// Names it: it may come several times.
    pub id: Uuid,
    /// The process it is for. One that gets the same name later is not meant.
    pub process: IncarnationId,
    pub order: WorkerOrder,
}

/// Sends an order to whoever listens.
pub(super) async fn send(
    transport: &dyn Transport,
    signer: &Signer,
    clock: &dyn Clock,
    letter: &Letter,
) -> Result<(), TransportError> {
    let payload = serde_json::to_vec(letter).expect("texts and numbers are always JSON");
    let signed = signer.sign(Purpose::Control, &payload, clock.now(), Uuid::new_v4());
    let signed = signed.map_err(|error| TransportError::Invalid(error.to_string()))?;
    transport.announce(ORDERS, signed).await
}

/// An order in a message; `None` if it is not one of ours, or too old.
pub(super) fn read(signer: &Signer, clock: &dyn Clock, message: &[u8]) -> Option<Letter> {
    let signed = match signer.verify(Purpose::Control, message, clock.now()) {
        Ok(signed) => signed,
        Err(error) => {
            tracing::warn!(reason = error.reason(), %error, "an order is not obeyed");
            return None;
        }
    };
    serde_json::from_slice(&signed.payload)
        .map_err(
            |error| tracing::warn!(%error, "an order is not understood; is its sender of another version?"),
        )
        .ok()
}

/// Orders that were obeyed, the last ones.
#[derive(Debug, Default)]
pub(super) struct Obeyed(VecDeque<Uuid>);

impl Obeyed {
    /// Whether it is new; it is known from now on.
    pub(super) fn is_new(&mut self, id: Uuid) -> bool {
        if self.0.contains(&id) {
            return false;
        }
        if self.0.len() >= REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(id);
        true
    }

    pub(super) fn ids(&self) -> Vec<Uuid> {
        self.0.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use airflow_core::secret::Secret;
    use airflow_core::time::SimClock;

    use super::*;
    use crate::remote::MAX_AGE;

    fn signer(key: &str) -> Signer {
        Signer::new(&[Secret::new(key.into())]).unwrap()
    }

    fn letter() -> Letter {
        let process = IncarnationId(Uuid::from_u128(7));
        Letter { id: Uuid::from_u128(1), process, order: WorkerOrder::AddQueue("gpu".into()) }
    }

    /// Goal: only what one of ours has said lately is obeyed. Method: the same order, signed by a stranger, changed on its way,
    /// meant as something else, and late.
    #[test]
    fn only_fresh_orders_of_ours_are_read() {
        let clock = SimClock::new("2026-01-01T00:00:00Z".parse().unwrap());
        let payload = serde_json::to_vec(&letter()).unwrap();
        let made = |key: &str, purpose| {
            signer(key).sign(purpose, &payload, clock.now(), Uuid::from_u128(2)).unwrap()
        };
        let ours = signer("a key of many bytes");
        let good = made("a key of many bytes", Purpose::Control);
        assert_eq!(read(&ours, &clock, &good).unwrap().order, letter().order);
        let mut changed = good.clone();
        let middle = changed.len() / 2;
        changed[middle] ^= 1;
        assert!(read(&ours, &clock, &changed).is_none());
        assert!(read(&ours, &clock, &made("another key of bytes", Purpose::Control)).is_none());
        assert!(read(&ours, &clock, &made("a key of many bytes", Purpose::Notice)).is_none());
        clock.set(clock.now() + MAX_AGE + MAX_AGE);
        assert!(read(&ours, &clock, &good).is_none());
    }

    #[test]
    fn a_copy_is_not_obeyed_again() {
        let mut obeyed = Obeyed::default();
        let ids: Vec<Uuid> = (0..=REMEMBERED as u128).map(Uuid::from_u128).collect();
        for id in &ids {
            assert!(obeyed.is_new(*id));
            assert!(!obeyed.is_new(*id));
        }
        assert_eq!(obeyed.ids(), ids[1..]);
    }

    #[test]
    fn limits_are_read_as_celery_reads_them() {
        assert_eq!("10,3".parse(), Ok(Autoscale { max: 10, min: 3 }));
        assert_eq!("10".parse(), Ok(Autoscale { max: 10, min: 1 }));
        assert!("3,10".parse::<Autoscale>().unwrap_err().contains("the larger number first"));
        for wrong in ["", "a,b", "0,0", "10,0", "-1,1"] {
            assert!(wrong.parse::<Autoscale>().unwrap_err().contains("such as `10,3`"), "{wrong}");
        }
    }
}
