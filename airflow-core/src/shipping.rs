//! Sends the logs of attempts to the store in pieces, beside the attempts: neither waits for the other.
//!
//! One task for all attempts of a `Runner` writes what has come once a second, and what is of an attempt
//! that has ended at once, but for its last piece: that is written with the end of the attempt. If the store does not take
//! it there, the end goes without it, and the piece comes later ([`LateLogs`]). The task lives while there is something to
//! send.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::id::AttemptId;
use crate::store::{LogChunk, SharedStore};
use crate::time::Clock;

/// How often what was said is sent: so much of a log is lost at most when its process is killed.
const EVERY: Duration = Duration::from_secs(1);

/// How long a piece becomes, in bytes, unless a single line is longer: few rows, and small packets.
const PIECE: usize = 64 * 1024;

/// How many bytes one call writes: others wait for the database meanwhile.
const BATCH: usize = 512 * 1024;

/// How many bytes of one attempt wait for the store at most, and of all together. What comes when it is full is cut out,
/// and the log says so.
const WAITING: usize = 1024 * 1024;
const ALL_WAITING: usize = 64 * 1024 * 1024;

/// How long the end of an attempt waits for the store to have its log: shorter than the time that a process whose lease
/// ends leaves its attempts to stop, so that a store that does not answer is no reason to end the process.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long it waits after the store failed: at first, and at most.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LAST: Duration = Duration::from_secs(5);

/// Sends logs. Clones send together.
#[derive(Clone)]
pub(crate) struct Shipper(Arc<Depot>);

impl fmt::Debug for Shipper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shipper").field("store", &self.0.store).finish_non_exhaustive()
    }
}

struct Depot {
    store: SharedStore,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// An attempt has ended, or much waits.
    hurry: Notify,
    /// Something was sent.
    sent: Notify,
}

#[derive(Default)]
struct State {
    logs: Vec<Parcel>,
    /// Pieces that were to be written with something else.
    late: VecDeque<LogChunk>,
    /// How many of them are on their way.
    late_on_the_way: usize,
    /// How many bytes wait, of all attempts.
    waiting: usize,
    runs: bool,
    last: u64,
}

/// What is to be sent of one attempt.
struct Parcel {
    number: u64,
    attempt: AttemptId,
    /// The number of the next piece.
    next: i64,
    waiting: String,
    /// Lines and bytes that found no room since the last that did.
    cut: (u64, u64),
    /// How many pieces are on their way.
    on_the_way: usize,
    is_closed: bool,
}

/// The log of one attempt on its way to the store. Dropping it ends it.
pub(crate) struct Outlet {
    shipper: Shipper,
    number: u64,
}

impl Shipper {
    pub(crate) fn new(store: SharedStore, clock: Arc<dyn Clock>) -> Self {
        let (state, hurry, sent) = Default::default();
        Self(Arc::new(Depot { store, clock, state, hurry, sent }))
    }

    /// Begins the log of an attempt; its first piece has the number `first`. Needs a tokio runtime.
    pub(crate) fn open(&self, attempt: AttemptId, first: i64) -> Outlet {
        let mut state = self.0.lock();
        state.last += 1;
        let number = state.last;
        let (waiting, cut) = Default::default();
        state.logs.push(Parcel {
            number,
            attempt,
            next: first,
            waiting,
            cut,
            on_the_way: 0,
            is_closed: false,
        });
        self.start(&mut state);
        Outlet { shipper: self.clone(), number }
    }

    fn start(&self, state: &mut State) {
        if !state.runs {
            state.runs = true;
            tokio::spawn(Arc::clone(&self.0).work());
        }
    }
}

/// Last pieces of logs that the store did not take with the ends of their attempts, or that come after these: they are
/// tried again beside everything else, until the store has them.
#[derive(Debug, Clone)]
pub struct LateLogs(Shipper);

impl LateLogs {
    /// Sends to that store.
    pub fn new(store: SharedStore, clock: Arc<dyn Clock>) -> Self {
        Self(Shipper::new(store, clock))
    }

    /// Takes pieces; waits for nothing. What is more than a process can hold is dropped, with a warning. Needs a tokio
    /// runtime.
    pub fn send(&self, pieces: Vec<LogChunk>) {
        let depot = &self.0.0;
        let mut state = depot.lock();
        let mut dropped = 0;
        for piece in pieces {
            if state.waiting + piece.text.len() > ALL_WAITING {
                dropped += 1;
                continue;
            }
            state.waiting += piece.text.len();
            state.late.push_back(piece);
        }
        if !state.late.is_empty() {
            self.0.start(&mut state);
        }
        drop(state);
        depot.hurry.notify_one();
        if dropped > 0 {
            tracing::warn!(dropped, "the ends of logs are lost: the database has not taken any for too long");
        }
    }

    /// Whether some are not written yet.
    pub fn is_waiting(&self) -> bool {
        self.0.0.lock().has_late()
    }

    /// Returns when all are written; waits not long for that.
    pub async fn sent(&self) {
        self.0.0.sent_in_time(|state| !state.has_late()).await;
    }
}

impl Outlet {
    /// Adds a line, which ends with a newline.
    pub(crate) fn add(&self, line: &str) {
        let depot = &self.shipper.0;
        let mut state = depot.lock();
        let room = state.waiting + line.len() <= ALL_WAITING;
        let Some(parcel) = state.logs.iter_mut().find(|parcel| parcel.number == self.number) else { return };
        if !room || parcel.waiting.len() + line.len() > WAITING {
            parcel.cut.0 += 1;
            parcel.cut.1 += line.len() as u64;
            return;
        }
        let before = parcel.waiting.len();
        parcel.tell_what_was_cut();
        parcel.waiting.push_str(line);
        let (more, much) = (parcel.waiting.len() - before, parcel.waiting.len() >= PIECE);
        state.waiting += more;
        drop(state);
        if much {
            depot.hurry.notify_one();
        }
    }

    /// Ends the log and gives its last piece.
    pub(crate) fn close(&self) -> Option<LogChunk> {
        let last = self.take_last();
        self.end();
        last
    }

    /// Returns when the store has what comes before the last piece; waits not long for that.
    pub(crate) async fn sent(&self) {
        self.shipper.0.sent_in_time(|state| state.has_sent(self.number)).await;
    }

    /// The last lines, as many as are one piece. Nothing comes after them.
    fn take_last(&self) -> Option<LogChunk> {
        let at = self.shipper.0.clock.now();
        let mut state = self.shipper.0.lock();
        let parcel = state.logs.iter_mut().find(|parcel| parcel.number == self.number)?;
        let before = parcel.waiting.len();
        parcel.tell_what_was_cut();
        let (attempt_id, text) = (parcel.attempt, parcel.take_tail());
        // What is left is not in more pieces than it has bytes.
        let left = parcel.waiting.len();
        let chunk = parcel.next + i64::try_from(left).unwrap_or(i64::MAX);
        state.waiting = state.waiting - before + left;
        (!text.is_empty()).then_some(LogChunk { attempt_id, chunk, at, text })
    }

    fn end(&self) {
        let depot = &self.shipper.0;
        let mut state = depot.lock();
        let Some(parcel) = state.logs.iter_mut().find(|parcel| parcel.number == self.number) else { return };
        let before = parcel.waiting.len();
        parcel.tell_what_was_cut();
        parcel.is_closed = true;
        let more = parcel.waiting.len() - before;
        state.waiting += more;
        drop(state);
        depot.hurry.notify_one();
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        self.end();
    }
}

/// Why something is missing.
const WHY: &str = "are missing here: the database did not take them in time\n";

/// The line that stands for lines that are missing.
pub(crate) fn gap(lines: u64, bytes: u64) -> String {
    format!("... {lines} lines with {bytes} bytes {WHY}")
}

/// Whether a line is such a one.
pub(crate) fn is_gap(line: &str) -> bool {
    line.starts_with("... ") && line.ends_with(WHY)
}

impl Parcel {
    fn tell_what_was_cut(&mut self) {
        let (lines, bytes) = std::mem::take(&mut self.cut);
        if lines > 0 {
            self.waiting += &gap(lines, bytes);
        }
    }

    /// The last whole lines of at most [`PIECE`] bytes.
    fn take_tail(&mut self) -> String {
        let least = self.waiting.len().saturating_sub(PIECE);
        let line_end = |from: &[u8]| from.iter().position(|byte| *byte == b'\n');
        let from = match least.checked_sub(1) {
            None => 0,
            Some(before) => {
                let rest = &self.waiting.as_bytes()[before..];
                line_end(rest).map_or(self.waiting.len(), |at| before + at + 1)
            }
        };
        self.waiting.split_off(from)
    }

    /// Whole lines of at most [`PIECE`] bytes, or one that is longer.
    fn take_piece(&mut self) -> String {
        let mut end = PIECE.min(self.waiting.len());
        if end < self.waiting.len() {
            let bytes = self.waiting.as_bytes();
            let line_end = |from: &[u8]| from.iter().position(|byte| *byte == b'\n');
            end = match bytes[..end].iter().rposition(|byte| *byte == b'\n') {
                Some(at) => at + 1,
                None => line_end(&bytes[end..]).map_or(bytes.len(), |at| end + at + 1),
            };
        }
        let rest = self.waiting.split_off(end);
        std::mem::replace(&mut self.waiting, rest)
    }
}

impl Depot {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn work(self: Arc<Self>) {
        loop {
            let all = tokio::select! {
                biased;
                () = self.hurry.notified() => false,
                () = self.clock.sleep(EVERY) => true,
            };
            loop {
                let (numbers, pieces) = self.take(all);
                if pieces.is_empty() {
                    break;
                }
                self.send(pieces).await;
                self.arrived(&numbers);
            }
            if self.is_done() {
                return;
            }
        }
    }

    /// The next pieces to send, and whose they are: all that waits, or what hurries.
    fn take(&self, all: bool) -> (Vec<u64>, Vec<LogChunk>) {
        let (mut numbers, mut pieces, mut size) = (Vec::new(), Vec::new(), 0);
        let at = self.clock.now();
        let mut state = self.lock();
        while let Some(piece) = state.late.pop_front_if(|_| size < BATCH) {
            size += piece.text.len();
            state.late_on_the_way += 1;
            pieces.push(piece);
        }
        for parcel in &mut state.logs {
            while !parcel.waiting.is_empty()
                && size < BATCH
                && (all || parcel.is_closed || parcel.waiting.len() >= PIECE)
            {
                let (attempt_id, chunk, text) = (parcel.attempt, parcel.next, parcel.take_piece());
                size += text.len();
                (parcel.next, parcel.on_the_way) = (chunk + 1, parcel.on_the_way + 1);
                pieces.push(LogChunk { attempt_id, chunk, at, text });
                numbers.push(parcel.number);
            }
        }
        state.waiting -= size;
        (numbers, pieces)
    }

    /// Writes pieces, until they are there.
    async fn send(&self, pieces: Vec<LogChunk>) {
        let mut pause = PAUSE_FIRST;
        while let Err(error) = self.store.add_log_chunks(pieces.clone()).await {
            tracing::warn!(%error, pieces = pieces.len(), "task logs cannot be written to the store; trying again");
            self.clock.sleep(pause).await;
            pause = (pause * 2).min(PAUSE_LAST);
        }
    }

    /// Returns when that is so, or after a moment.
    async fn sent_in_time(&self, is_so: impl Fn(&mut State) -> bool) {
        let all_sent = async {
            loop {
                let mut sent = std::pin::pin!(self.sent.notified());
                sent.as_mut().enable();
                if is_so(&mut self.lock()) {
                    return;
                }
                sent.await;
            }
        };
        tokio::select! {
            biased;
            () = all_sent => {}
            () = self.clock.sleep(LAST_WORDS) => {
                tracing::warn!("the store has not taken the log of an attempt yet; it is tried again");
            }
        }
    }

    fn arrived(&self, numbers: &[u64]) {
        let mut state = self.lock();
        state.late_on_the_way = 0;
        for parcel in &mut state.logs {
            parcel.on_the_way -= numbers.iter().filter(|number| **number == parcel.number).count();
        }
    }

    /// Forgets what is sent; says whether there is nothing more to do.
    fn is_done(&self) -> bool {
        let mut state = self.lock();
        state.logs.retain(|log| !log.is_closed || !log.waiting.is_empty() || log.on_the_way > 0);
        let done = state.logs.is_empty() && state.late.is_empty();
        state.runs = !done;
        drop(state);
        self.sent.notify_waiters();
        done
    }
}

impl State {
    /// Whether nothing of a log waits or is on its way; then it is forgotten.
    fn has_sent(&mut self, number: u64) -> bool {
        let is_sent = |log: &Parcel| log.waiting.is_empty() && log.on_the_way == 0;
        self.logs.retain(|log| log.number != number || !is_sent(log));
        self.logs.iter().all(|log| log.number != number)
    }

    fn has_late(&self) -> bool {
        !self.late.is_empty() || self.late_on_the_way > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parcel(waiting: String) -> Parcel {
        let attempt = AttemptId(uuid::Uuid::from_u128(1));
        let (next, cut, on_the_way, is_closed) = (0, (0, 0), 0, false);
        Parcel { number: 1, attempt, next, waiting, cut, on_the_way, is_closed }
    }

    /// Goal: pieces are whole lines and nothing is lost. Method: cut a text of short, long and multi-byte lines.
    #[test]
    fn pieces_are_whole_lines() {
        let lines: Vec<String> = (0..3_000)
            .map(|n| format!("{n} {}\n", "é".repeat(n % 97)))
            .chain(["x".repeat(3 * PIECE) + "\n"])
            .collect();
        let mut log = parcel(lines.concat());
        assert_eq!(log.take_tail(), "", "the last line is too long to be one piece");
        let mut short = parcel(lines[..3_000].concat());
        let tail = short.take_tail();
        assert!(tail.len() <= PIECE && tail.len() + 200 > PIECE, "{}", tail.len());
        assert_eq!(short.waiting + &tail, lines[..3_000].concat());
        assert_eq!(parcel("all\n".into()).take_tail(), "all\n");
        let mut pieces = Vec::new();
        while !log.waiting.is_empty() {
            pieces.push(log.take_piece());
        }
        assert_eq!(pieces.concat(), lines.concat());
        assert!(pieces.iter().all(|piece| piece.ends_with('\n')));
        assert!(pieces.iter().all(|piece| piece.len() <= PIECE || piece.lines().count() == 1));
        assert!(pieces.len() > 4);
    }
}
