//! Our own processes, and what is done to them.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;

use crate::app::{Setup, WORKER};
use crate::ledger::boot_nanos;
use crate::oracle::Strikes;

type Error = Box<dyn std::error::Error>;

/// Processes that run side by side over one database.
pub(crate) struct Fleet {
    setup: Setup,
    logs: std::path::PathBuf,
    children: Vec<Child>,
    started: usize,
    /// Variables of the environment of each process that is started, by its place.
    pub environment: Vec<Vec<(String, String)>>,
    /// The places that were ended for good.
    gone: BTreeSet<usize>,
    /// What was done to them so far.
    pub strikes: Strikes,
    /// How many ended by themselves.
    pub ended: usize,
}

impl Fleet {
    /// Starts `count` processes; what they say goes to files in `logs`.
    pub(crate) fn start(setup: &Setup, count: usize, logs: &std::path::Path) -> Result<Self, Error> {
        Self::start_in(setup, vec![Vec::new(); count], logs)
    }

    /// The same with variables of the environment for each.
    pub(crate) fn start_in(
        setup: &Setup,
        environment: Vec<Vec<(String, String)>>,
        logs: &std::path::Path,
    ) -> Result<Self, Error> {
        let count = environment.len();
        let mut fleet = Self {
            setup: setup.clone(),
            logs: logs.to_owned(),
            children: Vec::new(),
            started: 0,
            environment,
            gone: BTreeSet::new(),
            strikes: Strikes::default(),
            ended: 0,
        };
        for index in 0..count {
            let child = fleet.spawn(index)?;
            fleet.children.push(child);
        }
        Ok(fleet)
    }

    fn spawn(&mut self, index: usize) -> Result<Child, Error> {
        self.started += 1;
        let log = std::fs::File::create(self.logs.join(format!("process-{}.log", self.started)))?;
        let mut command = self.setup.command()?;
        command.envs(self.environment[index].iter().cloned());
        Ok(command.stdout(log.try_clone()?).stderr(log).spawn()?)
    }

    /// Starts one more; says its place.
    pub(crate) fn add(&mut self, environment: Vec<(String, String)>) -> Result<usize, Error> {
        self.environment.push(environment);
        let index = self.children.len();
        let child = self.spawn(index)?;
        self.children.push(child);
        Ok(index)
    }

    /// Says so if processes ended that nobody had ended.
    pub(crate) fn ended_by_themselves(&self) -> Option<String> {
        (self.ended > 0).then(|| format!("{} processes ended by themselves", self.ended))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.children.len()
    }

    /// The places of workers, or of the processes that run attempts if there are none.
    pub(crate) fn runners(&self) -> Vec<usize> {
        let workers: Vec<usize> = (0..self.len()).filter(|index| self.is_worker(*index)).collect();
        if workers.is_empty() { self.schedulers() } else { workers }
    }

    /// The places of schedulers.
    pub(crate) fn schedulers(&self) -> Vec<usize> {
        (0..self.len()).filter(|index| !self.is_worker(*index)).collect()
    }

    fn is_worker(&self, index: usize) -> bool {
        self.environment[index].iter().any(|(name, _)| name == WORKER)
    }

    /// The pids of all, by place.
    pub(crate) fn pids(&self) -> Vec<Option<u32>> {
        self.children.iter().map(Child::id).collect()
    }

    fn pid(&self, index: usize) -> Result<(u32, Pid), Error> {
        let raw = self.children[index].id().ok_or("the process has ended by itself")?;
        Ok((raw, Pid::from_raw(i32::try_from(raw)?).ok_or("no pid")?))
    }

    /// Ends one with SIGKILL and starts another in its place.
    pub(crate) async fn kill(&mut self, index: usize) -> Result<(), Error> {
        let (raw, pid) = self.pid(index)?;
        self.strikes.kills.push((raw, boot_nanos()));
        kill_process(pid, Signal::KILL)?;
        self.children[index].wait().await?;
        self.children[index] = self.spawn(index)?;
        Ok(())
    }

    /// Ends all at once with SIGKILL, then starts all again.
    pub(crate) async fn kill_all(&mut self) -> Result<(), Error> {
        for index in 0..self.children.len() {
            let (raw, pid) = self.pid(index)?;
            self.strikes.kills.push((raw, boot_nanos()));
            kill_process(pid, Signal::KILL)?;
        }
        for index in 0..self.children.len() {
            self.children[index].wait().await?;
            self.children[index] = self.spawn(index)?;
        }
        Ok(())
    }

    /// Asks one to stop, as a service manager does, and starts another in its place once it has.
    pub(crate) async fn roll(&mut self, index: usize) -> Result<(), Error> {
        let (raw, pid) = self.pid(index)?;
        kill_process(pid, Signal::TERM)?;
        let status = self.children[index].wait().await?;
        if !status.success() {
            return Err(format!("a process that was asked to stop ended with {status}").into());
        }
        self.strikes.kills.push((raw, boot_nanos()));
        self.children[index] = self.spawn(index)?;
        Ok(())
    }

    /// Asks one to stop, if it has not ended before, and starts another in its place, however it ended.
    pub(crate) async fn roll_any(&mut self, index: usize) -> Result<(), Error> {
        if let Ok((_, pid)) = self.pid(index) {
            // It may end by itself at this moment.
            kill_process(pid, Signal::TERM).ok();
        }
        let raw = self.children[index].id();
        self.children[index].wait().await?;
        self.strikes.kills.extend(raw.map(|raw| (raw, boot_nanos())));
        self.children[index] = self.spawn(index)?;
        Ok(())
    }

    /// Ends one with SIGKILL and starts no other one.
    pub(crate) async fn end(&mut self, index: usize) -> Result<(), Error> {
        let (raw, pid) = self.pid(index)?;
        self.strikes.kills.push((raw, boot_nanos()));
        kill_process(pid, Signal::KILL)?;
        self.children[index].wait().await?;
        self.gone.insert(index);
        Ok(())
    }

    /// Starts one where one was ended.
    pub(crate) fn again(&mut self, index: usize) -> Result<(), Error> {
        self.gone.remove(&index);
        self.children[index] = self.spawn(index)?;
        Ok(())
    }

    /// Freezes one for a time.
    pub(crate) async fn freeze(&mut self, index: usize, time: Duration) -> Result<(), Error> {
        let (raw, pid) = self.pid(index)?;
        let at = boot_nanos();
        kill_process(pid, Signal::STOP)?;
        tokio::time::sleep(time).await;
        self.strikes.freezes.push((raw, at, boot_nanos()));
        kill_process(pid, Signal::CONT)?;
        Ok(())
    }

    /// The place of the process with this pid.
    pub(crate) fn place_of(&self, pid: u32) -> Option<usize> {
        self.children.iter().position(|child| child.id() == Some(pid))
    }

    /// Starts again what has ended by itself; says how many had.
    pub(crate) fn revive(&mut self) -> Result<usize, Error> {
        let mut ended = 0;
        for index in 0..self.children.len() {
            let pid = self.children[index].id();
            if !self.gone.contains(&index) && self.children[index].try_wait()?.is_some() {
                ended += 1;
                self.ended += 1;
                self.strikes.kills.extend(pid.map(|pid| (pid, boot_nanos())));
                self.children[index] = self.spawn(index)?;
            }
        }
        Ok(ended)
    }

    /// Asks all to stop and waits until they have.
    pub(crate) async fn stop(&mut self) -> Result<Strikes, Error> {
        for index in 0..self.children.len() {
            if let Ok((_, pid)) = self.pid(index) {
                kill_process(pid, Signal::TERM)?;
            }
        }
        for child in &mut self.children {
            tokio::time::timeout(Duration::from_secs(30), child.wait()).await??;
        }
        Ok(self.strikes.clone())
    }

    /// Lines of the logs in which one of the words stands.
    pub(crate) fn said(&self, words: &[&str]) -> Result<Vec<String>, Error> {
        let mut found = Vec::new();
        for number in 1..=self.started {
            let text = std::fs::read_to_string(self.logs.join(format!("process-{number}.log")))?;
            let has = |line: &&str| words.iter().any(|word| line.contains(word));
            found.extend(text.lines().filter(has).map(str::to_owned));
        }
        Ok(found)
    }
}

/// How much memory of a process is resident, in KiB.
pub(crate) fn resident_kb(pid: u32) -> Result<u64, Error> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no resident memory")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
