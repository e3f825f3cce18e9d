//! Which process this is, and which other ones are dead.
//!
//! A process is declared dead on one of two grounds: the process table of this machine says that it is gone; or two
//! witnesses agree: the store's clock says that its lease has run out, and this process has itself seen its beats stand
//! still for a full lease, on a clock that nobody can set. So no clock that jumps, neither ours nor that of the store,
//! kills a healthy process.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use uuid::Uuid;

use crate::host::host_name;
use crate::id::IncarnationId;
use crate::store::{Incarnation, NewIncarnation};

/// What identifies one life of a process.
#[derive(Debug, Clone)]
pub struct IncarnationSpec {
    /// Made at its start.
    pub id: IncarnationId,
    kind: &'static str,
    host: String,
    pid: u32,
    birth: String,
}

impl IncarnationSpec {
    /// This process.
    pub fn of_this_process(kind: &'static str) -> Self {
        Self {
            id: IncarnationId(Uuid::now_v7()),
            kind,
            host: host_name(),
            pid: std::process::id(),
            birth: own_birth().unwrap_or_default().to_owned(),
        }
    }

    /// As the store wants it.
    pub fn new_incarnation(&self, lease: Duration) -> NewIncarnation {
        NewIncarnation {
            id: self.id,
            kind: self.kind.to_owned(),
            host: self.host.clone(),
            pid: self.pid,
            birth: self.birth.clone(),
            lease,
        }
    }

    /// The same process, in a new life: it was declared dead.
    #[must_use]
    pub(super) fn again(&self) -> Self {
        Self { id: IncarnationId(Uuid::now_v7()), ..self.clone() }
    }
}

/// Whether a process is known to be gone: it ran on this machine, where we see all processes that it saw, and nobody
/// there has its pid and birth any more.
pub fn is_gone(other: &NewIncarnation) -> bool {
    let Some((place, _)) = other.birth.rsplit_once(':') else { return false };
    // Another machine of the same name, another boot, or another container: its process table is not ours.
    // Nobody is asked about this process: it is there.
    let is_this = || own_birth() == Some(other.birth.as_str()) && other.pid == std::process::id();
    here() == Some(place) && !is_this() && birth(other.pid).as_deref() != Some(other.birth.as_str())
}

/// Whether a process counts as alive for somebody who looks only once.
pub fn seems_alive(other: &Incarnation) -> bool {
    !other.expired && !is_gone(&other.process)
}

/// Why a process is declared dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Death {
    /// It is gone from the process table.
    Gone,
    /// Both witnesses agree; it had beaten so many times.
    Expired(u64),
}

/// What this process has itself seen of one other.
#[derive(Debug)]
struct Seen {
    beats: u64,
    /// How long they have stood still while we could look.
    quiet: Duration,
}

/// The second witness.
#[derive(Debug, Default)]
pub(super) struct Watch {
    seen: BTreeMap<IncarnationId, Seen>,
    last: Option<Duration>,
}

impl Watch {
    /// Looks at all processes that have not ended, at `elapsed` of our own clock; says which others are dead. Time in
    /// which we could not look, because the store was away or this process stood still, counts as at most `gap`: after
    /// an outage everybody has the time to come back.
    pub(super) fn look(
        &mut self,
        all: &[Incarnation],
        own: IncarnationId,
        elapsed: Duration,
        gap: Duration,
    ) -> Vec<(IncarnationId, Death)> {
        let step = self.last.map_or(Duration::ZERO, |last| elapsed.saturating_sub(last)).min(gap);
        self.last = Some(elapsed);
        self.seen.retain(|id, _| all.iter().any(|one| one.process.id == *id));
        let mut dead = Vec::new();
        for one in all.iter().filter(|one| one.process.id != own) {
            let new = Seen { beats: one.beats, quiet: Duration::ZERO };
            match self.seen.entry(one.process.id) {
                std::collections::btree_map::Entry::Occupied(mut seen) if seen.get().beats == one.beats => {
                    seen.get_mut().quiet += step;
                }
                std::collections::btree_map::Entry::Occupied(mut seen) => drop(seen.insert(new)),
                std::collections::btree_map::Entry::Vacant(empty) => drop(empty.insert(new)),
            }
            let quiet = self.seen.get(&one.process.id).map_or(Duration::ZERO, |seen| seen.quiet);
            if is_gone(&one.process) {
                dead.push((one.process.id, Death::Gone));
            } else if one.expired && quiet >= one.process.lease {
                dead.push((one.process.id, Death::Expired(one.beats)));
            }
        }
        dead
    }
}

/// The boot of the machine and the set of processes that we see: processes of one such place share a process table. Both
/// stay for as long as a process lives, so they are read once.
fn here() -> Option<&'static str> {
    static HERE: LazyLock<Option<String>> = LazyLock::new(|| {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let processes = std::fs::read_link("/proc/self/ns/pid").ok()?;
        let number: String = processes.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
        Some(format!("{}:{number}", boot.trim()))
    });
    HERE.as_deref()
}

/// That of this process, which stays what it is.
fn own_birth() -> Option<&'static str> {
    static OWN: LazyLock<Option<String>> = LazyLock::new(|| birth(std::process::id()));
    OWN.as_deref()
}

/// The place of a process and its start there; `None` if there is no such process, or no `/proc`.
fn birth(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in the second field may hold spaces and brackets; the rest begins after the last bracket.
    let rest = stat.rsplit_once(')')?.1;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    // A process that has ended and that nobody has waited for does nothing any more.
    if matches!(state, "Z" | "X") {
        return None;
    }
    let started = fields.nth(18)?;
    Some(format!("{}:{started}", here()?))
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;

    const LEASE: Duration = Duration::from_secs(20);
    const GAP: Duration = Duration::from_secs(10);

    fn seen(process: NewIncarnation, beats: u64, expired: bool) -> Incarnation {
        let now = Utc::now();
        Incarnation { process, started_at: now, lease_until: now, beats, last_beat: now, expired }
    }

    fn elsewhere() -> NewIncarnation {
        let mine =
            IncarnationSpec { birth: "another boot:1:1".into(), ..IncarnationSpec::of_this_process("x") };
        mine.new_incarnation(LEASE)
    }

    #[test]
    fn the_process_table_tells_only_of_processes_that_share_it() {
        let mine = IncarnationSpec::of_this_process("scheduler");
        assert!(!is_gone(&mine.new_incarnation(LEASE)));
        let (place, start) = mine.birth.rsplit_once(':').unwrap();
        let reused = IncarnationSpec { birth: format!("{place}:{start}1"), ..mine.clone() };
        assert!(is_gone(&reused.new_incarnation(LEASE)), "another process has its pid");
        // A machine of the same name: nothing is known of its processes.
        assert!(!is_gone(&elsewhere()));
        let unknown = IncarnationSpec { birth: String::new(), ..mine };
        assert!(!is_gone(&unknown.new_incarnation(LEASE)));
    }

    /// Goal: neither witness alone declares a death.
    #[test]
    fn death_needs_both_witnesses() {
        let (other, own) = (elsewhere(), IncarnationId(Uuid::nil()));
        let at = Duration::from_secs;
        let mut watch = Watch::default();
        let mut look = |beats, expired, seconds| {
            watch.look(&[seen(other.clone(), beats, expired)], own, at(seconds), GAP)
        };
        assert_eq!(look(3, true, 0), [], "just seen for the first time");
        assert_eq!(look(3, true, 10), []);
        assert_eq!(look(4, true, 19), [], "it beats, whatever the store's clock says");
        assert_eq!(look(4, false, 29), []);
        assert_eq!(look(4, false, 39), [], "its beats stand still, but its lease has not run out");
        assert_eq!(look(4, true, 40), [(other.id, Death::Expired(4))]);
    }

    #[test]
    fn time_without_a_look_does_not_count() {
        let (other, own) = (elsewhere(), IncarnationId(Uuid::nil()));
        let mut watch = Watch::default();
        let all = [seen(other, 1, true)];
        assert_eq!(watch.look(&all, own, Duration::ZERO, GAP), []);
        assert_eq!(
            watch.look(&all, own, Duration::from_secs(3600), GAP),
            [],
            "the store was away for an hour"
        );
        assert_eq!(watch.look(&all, own, Duration::from_secs(3610), GAP).len(), 1);
    }
}
