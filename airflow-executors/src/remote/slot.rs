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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::pace::LONGEST;
    use super::*;

    /// Goal: a server is found soon after it is back, however long it was away, and is not asked without a pause. Method: the
    /// time of a runtime that waits for nothing.
    #[tokio::test(start_paused = true)]
    async fn what_comes_back_is_found_within_a_second() {
        let slot = Slot::default();
        for (number, away) in [300, 3_000, 8_000, 60_000, 3_600_000].into_iter().enumerate() {
            let back = Instant::now() + Duration::from_millis(away);
            let (mut tries, mut found) = (0_u64, None);
            while found.is_none() {
                tries += 1;
                let is_back = async { if Instant::now() >= back { Ok(()) } else { Err("it is away") } };
                found = slot.get(is_back).await.ok();
            }
            let late = Instant::now() - back;
            assert!(late <= LONGEST, "away for {away} ms, found {late:?} later");
            assert!(tries <= 6 + away / 500, "away for {away} ms, {tries} tries");
            let (made, ()) = found.expect("it was found");
            assert_eq!(made, number as u64 + 1);
            slot.forget(made).await;
        }
    }
}
