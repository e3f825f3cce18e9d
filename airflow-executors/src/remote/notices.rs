//! What processes tell each other through the broker, beside the messages about attempts. Each may get lost: whatever it
//! says is found in the store a little later.

use airflow_core::id::AttemptId;
use airflow_core::time::Clock;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::signer::{MAX_PAYLOAD, Purpose, Signer};
use super::transport::Transport;

/// Where workers say that they have left reports in the store.
pub(super) const REPORTS: &str = "reports";

/// Where schedulers say that attempts are to stop.
pub(super) const CANCELS: &str = "cancels";

/// How many attempts one notice names: they fit into a signed payload.
const MOST_CANCELS: usize = MAX_PAYLOAD / 40 - 1;

/// Attempts that are to stop.
#[derive(Debug, Serialize, Deserialize)]
struct Cancels {
    attempts: Vec<Uuid>,
}

/// Says that reports wait in the store.
pub(super) async fn announce_reports(transport: &dyn Transport, signer: &Signer, clock: &dyn Clock) {
    send(transport, signer, clock, REPORTS, b"").await;
}

/// Says that attempts are to stop.
pub(super) async fn announce_cancels(
    transport: &dyn Transport,
    signer: &Signer,
    clock: &dyn Clock,
    attempts: &[AttemptId],
) {
    for part in attempts.chunks(MOST_CANCELS) {
        let cancels = Cancels { attempts: part.iter().map(|id| id.0).collect() };
        let payload = serde_json::to_vec(&cancels).expect("ids are always JSON");
        send(transport, signer, clock, CANCELS, &payload).await;
    }
}

async fn send(transport: &dyn Transport, signer: &Signer, clock: &dyn Clock, topic: &str, payload: &[u8]) {
    let sent = match signer.sign(Purpose::Notice, payload, clock.now(), Uuid::new_v4()) {
        Ok(message) => transport.announce(topic, message).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = sent {
        tracing::debug!(topic, error, "a notice was not sent; the store is looked at soon anyway");
    }
}

/// Whether a notice is from one of ours.
pub(super) fn is_ours(signer: &Signer, clock: &dyn Clock, message: &[u8]) -> bool {
    signer.verify(Purpose::Notice, message, clock.now()).is_ok()
}

/// The attempts that a notice says are to stop; none if it is not one of ours.
pub(super) fn cancels(signer: &Signer, clock: &dyn Clock, message: &[u8]) -> Vec<AttemptId> {
    let signed = signer.verify(Purpose::Notice, message, clock.now()).ok();
    let cancels = signed.and_then(|signed| serde_json::from_slice::<Cancels>(&signed.payload).ok());
    cancels.map(|all| all.attempts.into_iter().map(AttemptId).collect()).unwrap_or_default()
}
