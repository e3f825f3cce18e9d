//! Messages that nobody of ours has sent: kept in the store once each, for people to look at.

use airflow_core::store::{DeadLetter, StoreResult};
use sha2::{Digest as _, Sha256};

use crate::remote::signer::{HEAD, MessageError, TAIL, hex};
use crate::remote::transport::Delivery;

use super::Shared;

/// How many are kept; the oldest go first. Whoever floods a queue must not fill the database.
const MOST_KEPT: u32 = 1_000;

/// How many of the first bytes of a message are kept: enough to see what it may be. Ours have nothing secret.
const HEAD_KEPT: usize = 96;

impl Shared {
    /// Keeps a message that is none of ours, before it is acknowledged.
    pub(super) async fn set_aside(&self, delivery: &Delivery, error: &MessageError) -> StoreResult<()> {
        self.desk.count(|counts| counts.bad += 1);
        let letter = self.letter(delivery, error);
        let (queue, id) = (letter.queue.clone(), letter.id.clone());
        if self.store.keep_dead_letter(letter, MOST_KEPT).await? {
            tracing::warn!(queue, id, reason = error.reason(), %error, "a message was set aside");
        }
        Ok(())
    }

    fn letter(&self, delivery: &Delivery, error: &MessageError) -> DeadLetter {
        let body = delivery.body.as_slice();
        let mut hash = Sha256::new();
        hash.update((delivery.queue.len() as u64).to_le_bytes());
        hash.update(delivery.queue.as_bytes());
        hash.update(body);
        let key = body.get(2..HEAD).filter(|_| body.len() >= HEAD + TAIL);
        DeadLetter {
            id: hex(&hash.finalize()[..16]),
            at: self.clock.now(),
            queue: delivery.queue.clone(),
            reason: error.reason().to_owned(),
            error: error.to_string(),
            key_id: key.map(hex),
            size: body.len() as u64,
            head: body.iter().take(HEAD_KEPT).flat_map(|byte| byte.escape_ascii()).map(char::from).collect(),
            by: self.name.clone(),
        }
    }
}
