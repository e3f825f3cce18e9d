//! Our own processes, and what is done to them.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;

use crate::app::Setup;
use crate::ledger::boot_nanos;
use crate::oracle::Kill;

type Error = Box<dyn std::error::Error>;

/// Processes that run side by side over one database.
pub(crate) struct Fleet {
    setup: Setup,
    logs: std::path::PathBuf,
    children: Vec<Child>,
    started: usize,
    /// What was ended so far.
    pub kills: Vec<Kill>,
}

impl Fleet {
    /// Starts `count` processes; what they say goes to files in `logs`.
    pub(crate) fn start(setup: &Setup, count: usize, logs: &std::path::Path) -> Result<Self, Error> {
        let mut fleet = Self {
            setup: setup.clone(),
            logs: logs.to_owned(),
            children: Vec::new(),
            started: 0,
            kills: Vec::new(),
        };
        for _ in 0..count {
            let child = fleet.spawn()?;
            fleet.children.push(child);
        }
        Ok(fleet)
    }

    fn spawn(&mut self) -> Result<Child, Error> {
        self.started += 1;
        let log = std::fs::File::create(self.logs.join(format!("process-{}.log", self.started)))?;
        Ok(self.setup.command()?.stdout(log.try_clone()?).stderr(log).spawn()?)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.children.len()
    }

    fn pid(&self, index: usize) -> Result<(u32, Pid), Error> {
        let raw = self.children[index].id().ok_or("the process has ended by itself")?;
        Ok((raw, Pid::from_raw(i32::try_from(raw)?).ok_or("no pid")?))
    }

    /// Ends one with SIGKILL and starts another in its place.
    pub(crate) async fn kill(&mut self, index: usize) -> Result<(), Error> {
        let (raw, pid) = self.pid(index)?;
        self.kills.push((raw, boot_nanos()));
        kill_process(pid, Signal::KILL)?;
        self.children[index].wait().await?;
        self.children[index] = self.spawn()?;
        Ok(())
    }

    /// Ends all at once with SIGKILL, then starts all again.
    pub(crate) async fn kill_all(&mut self) -> Result<(), Error> {
        for index in 0..self.children.len() {
            let (raw, pid) = self.pid(index)?;
            self.kills.push((raw, boot_nanos()));
            kill_process(pid, Signal::KILL)?;
        }
        for index in 0..self.children.len() {
            self.children[index].wait().await?;
            self.children[index] = self.spawn()?;
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
        self.kills.push((raw, boot_nanos()));
        self.children[index] = self.spawn()?;
        Ok(())
    }

    /// Freezes one for a time.
    pub(crate) async fn freeze(&mut self, index: usize, time: Duration) -> Result<(), Error> {
        let (raw, pid) = self.pid(index)?;
        let at = boot_nanos();
        kill_process(pid, Signal::STOP)?;
        tokio::time::sleep(time).await;
        kill_process(pid, Signal::CONT)?;
        self.kills.push((raw, at));
        Ok(())
    }

    /// Starts again what has ended by itself; says how many had.
    pub(crate) fn revive(&mut self) -> Result<usize, Error> {
        let mut ended = 0;
        for index in 0..self.children.len() {
            let pid = self.children[index].id();
            if self.children[index].try_wait()?.is_some() {
                ended += 1;
                self.kills.extend(pid.map(|pid| (pid, boot_nanos())));
                self.children[index] = self.spawn()?;
            }
        }
        Ok(ended)
    }

    /// Asks all to stop and waits until they have.
    pub(crate) async fn stop(mut self) -> Result<Vec<Kill>, Error> {
        for index in 0..self.children.len() {
            if let Ok((_, pid)) = self.pid(index) {
                kill_process(pid, Signal::TERM)?;
            }
        }
        for child in &mut self.children {
            tokio::time::timeout(Duration::from_secs(30), child.wait()).await??;
        }
        Ok(self.kills)
    }

    /// Lines of the logs that no process may write.
    pub(crate) fn cries(&self) -> Result<Vec<String>, Error> {
        let mut cries = Vec::new();
        for number in 1..=self.started {
            let text = std::fs::read_to_string(self.logs.join(format!("process-{number}.log")))?;
            cries.extend(text.lines().filter(|line| line.contains("panicked at")).map(str::to_owned));
        }
        Ok(cries)
    }
}
