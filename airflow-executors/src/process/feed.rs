//! What keeps the process of an attempt alive: the word that the lease of the one that started it goes on.
//!
//! If the one that started it stands still, nothing is said, and the process ends itself before the lease does. In-process attempts
//! need nothing of the kind: they stand still as well.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use airflow_core::attempt::process::lease_word;
use airflow_core::executor::LeaseWatch;
use airflow_core::id::IncarnationId;
use airflow_core::time::since_boot;
use tokio::sync::Notify;

/// Says to the process of an attempt until when it may run.
pub(super) struct Feed {
    lease: LeaseWatch,
    /// The life of this process in which the attempt was begun; a later one has no right to it.
    life: Option<IncarnationId>,
    /// What it was told last.
    until: Option<Duration>,
    /// Its time was over before it was told of a later moment.
    has_lapsed: bool,
}

impl Feed {
    /// For an attempt that begins now.
    pub(super) fn new(lease: LeaseWatch) -> Self {
        let end = lease.end();
        Self { lease, life: end.map(|end| end.life), until: end.map(|end| end.at), has_lapsed: false }
    }

    /// What it is told first.
    pub(super) fn until(&self) -> Option<Duration> {
        self.until
    }

    /// Says each later moment, once the order has been told. Never returns.
    pub(super) async fn run(&mut self, socket: &UnixStream, is_told: &Notify) -> std::convert::Infallible {
        is_told.notified().await;
        loop {
            self.say(socket);
            self.lease.changed().await;
        }
    }

    fn say(&mut self, mut socket: &UnixStream) {
        let Some(end) = self.lease.end().filter(|end| Some(end.life) == self.life) else { return };
        if self.has_lapsed() || self.until == Some(end.at) {
            return;
        }
        // If there is no room for it, nobody reads; then its time ends.
        if socket.write(&lease_word(Some(end.at))).is_ok() {
            self.until = Some(end.at);
        }
    }

    /// Whether the process has ended itself, or is about to, because this one stood still.
    pub(super) fn has_lapsed(&mut self) -> bool {
        self.has_lapsed |= self.until.is_some_and(|until| since_boot() >= until);
        self.has_lapsed
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use airflow_core::executor::LeaseEnd;
    use tokio::sync::watch;
    use uuid::Uuid;

    use super::*;

    /// What was said on a socket.
    fn said(mut socket: &UnixStream) -> Vec<u8> {
        let mut bytes = vec![0; 256];
        let count = socket.read(&mut bytes).unwrap_or(0);
        bytes.truncate(count);
        bytes
    }

    /// Goal: a process hears of the moments of its own life, as long as its time is not over, and of nothing else.
    #[test]
    fn a_later_life_and_a_late_word_keep_nobody_alive() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let life = IncarnationId(Uuid::now_v7());
        let in_a_minute = since_boot() + Duration::from_secs(60);
        let (ends, watch) = watch::channel(Some(LeaseEnd { life, at: in_a_minute }));
        let mut feed = Feed::new(LeaseWatch::new(watch));
        assert_eq!(feed.until(), Some(in_a_minute));
        feed.say(&ours);
        assert!(said(&theirs).is_empty(), "it knows that");
        let later = in_a_minute + Duration::from_secs(5);
        ends.send_replace(Some(LeaseEnd { life, at: later }));
        feed.say(&ours);
        assert_eq!(said(&theirs), lease_word(Some(later)));
        let next = IncarnationId(Uuid::now_v7());
        ends.send_replace(Some(LeaseEnd { life: next, at: later + Duration::from_secs(5) }));
        feed.say(&ours);
        assert!(said(&theirs).is_empty(), "another life");
        assert!(!feed.has_lapsed());
        // Declared dead: there is no time left. Then the lease is there again.
        ends.send_replace(Some(LeaseEnd { life, at: since_boot() }));
        feed.say(&ours);
        assert_eq!(said(&theirs).len(), 9);
        ends.send_replace(Some(LeaseEnd { life, at: later }));
        feed.say(&ours);
        assert!(said(&theirs).is_empty(), "it has ended itself");
        assert!(feed.has_lapsed());
    }

    #[test]
    fn without_a_lease_nothing_is_said() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut feed = Feed::new(LeaseWatch::none());
        feed.say(&ours);
        assert_eq!((feed.until(), said(&theirs), feed.has_lapsed()), (None, Vec::new(), false));
    }
}
