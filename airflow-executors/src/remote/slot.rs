//! A shared connection that is made when it is needed, and made anew when it broke.

use std::fmt;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::pace::{Health, Pace};

/// Room for one connection.
pub(super) struct Slot<C> {
    pub(super) health: Health,
    state: Mutex<State<C>>,
}

struct State<C> {
    live: Option<(u64, C)>,
    made: u64,
    pace: Pace,
    /// Not before this: the pause after a failure.
    next: Option<Instant>,
}

impl<C> fmt::Debug for Slot<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("health", &self.health.told()).finish_non_exhaustive()
    }
}

impl<C> Default for Slot<C> {
    fn default() -> Self {
        let state = State { live: None, made: 0, pace: Pace::default(), next: None };
        Self { health: Health::default(), state: Mutex::new(state) }
    }
}

impl<C: Clone> Slot<C> {
    /// The connection and its number, made now if there is none.
    pub(super) async fn get<E>(&self, connect: impl Future<Output = Result<C, E>>) -> Result<(u64, C), E> {
        let mut state = self.state.lock().await;
        if let Some((made, live)) = &state.live {
            return Ok((*made, live.clone()));
        }
        if let Some(next) = state.next {
            tokio::time::sleep_until(next).await;
        }
        // If this call is given up while it waits, the next one still makes its pause.
        let pause = state.pace.next();
        state.next = Some(Instant::now() + pause);
        let connection = connect.await?;
        self.health.connected();
        state.pace.reset();
        state.next = None;
        state.made += 1;
        state.live = Some((state.made, connection.clone()));
        Ok((state.made, connection))
    }

    /// Forgets a connection that broke.
    pub(super) async fn forget(&self, made: u64) {
        let mut state = self.state.lock().await;
        if state.live.as_ref().is_some_and(|(live, _)| *live == made) {
            state.live = None;
        }
    }
}
