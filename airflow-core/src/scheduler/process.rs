//! Which process this is, and whether another one is dead.

use chrono::{DateTime, Utc};
use uuid::Uuid;

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
        let pid = std::process::id();
        Self {
            id: IncarnationId(Uuid::now_v7()),
            kind,
            host: host(),
            pid,
            birth: birth(pid).unwrap_or_default(),
        }
    }

    /// As the store wants it.
    pub fn new_incarnation(&self, now: DateTime<Utc>, lease_until: DateTime<Utc>) -> NewIncarnation {
        NewIncarnation {
            id: self.id,
            kind: self.kind.to_owned(),
            host: self.host.clone(),
            pid: self.pid,
            birth: self.birth.clone(),
            started_at: now,
            lease_until,
        }
    }
}

/// Whether a process is known to be dead: on this machine nobody has its pid and birth any more, or its lease has run
/// out.
pub fn is_dead(other: &Incarnation, now: DateTime<Utc>) -> bool {
    let process = &other.process;
    if process.host == host() && !process.birth.is_empty() && boot().is_some() {
        // On the same machine the process table knows better than any lease.
        return birth(process.pid).as_deref() != Some(process.birth.as_str());
    }
    process.lease_until < now
}

fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = name.or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_else(|| "localhost".into());
    name.trim().to_owned()
}

/// Differs after each boot of the machine.
fn boot() -> Option<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim().to_owned())
}

/// The boot of the machine and the start of a process in it; `None` if there is no such process, or no `/proc`.
fn birth(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in the second field may hold spaces and brackets; the rest begins after the last bracket.
    let rest = stat.rsplit_once(')')?.1;
    let started = rest.split_whitespace().nth(19)?;
    Some(format!("{}:{started}", boot()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incarnation(spec: &IncarnationSpec, lease_until: DateTime<Utc>) -> Incarnation {
        let now = Utc::now();
        Incarnation { process: spec.new_incarnation(now, lease_until), beats: 0, last_beat: now }
    }

    #[test]
    fn this_process_is_alive_and_a_pid_of_another_life_is_dead() {
        let now = Utc::now();
        let mine = IncarnationSpec::of_this_process("scheduler");
        assert!(!is_dead(&incarnation(&mine, now - chrono::TimeDelta::hours(1)), now));
        let reused = IncarnationSpec { birth: "another boot:1".into(), ..mine.clone() };
        assert!(is_dead(&incarnation(&reused, now + chrono::TimeDelta::hours(1)), now));
        let elsewhere = IncarnationSpec { host: "elsewhere".into(), ..mine };
        assert!(!is_dead(&incarnation(&elsewhere, now + chrono::TimeDelta::hours(1)), now));
        assert!(is_dead(&incarnation(&elsewhere, now - chrono::TimeDelta::seconds(1)), now));
    }
}
