//! An executor of one's own: attempts whose tasks say so are started by a launcher, the others run beside each other.
//!
//! The launcher here is `env`; it could be one that starts a container, a job of a cluster, or a process of another user, as
//! long as it leaves the standard input and the environment to the program that it starts. The tests hold the executor
//! to the contract of all executors.
//!
//! `cargo run --example 15_custom_executor`, `cargo test --example 15_custom_executor --features testing`

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::OnceLock;
use std::time::Duration;

use airflow::ProcessCommand;
use airflow::executor::{Executor, ExecutorServices, SubmitError};
use airflow::id::AttemptId;
use airflow::plan::{Attempt, Outcome, Report};
use airflow::prelude::*;
use async_trait::async_trait;
use serde_json::json;

/// Runs attempts here, or through a launcher if `executor_config` names its size: `{"machine": "big"}`.
#[derive(Debug)]
struct Launching {
    here: LocalExecutor,
    big: LocalExecutor,
    /// Of tasks that say nothing.
    machine: Option<String>,
    services: OnceLock<ExecutorServices>,
}

impl Launching {
    /// `slots` attempts at once in all; the scheduler keeps to that.
    fn new(slots: usize, launcher: ProcessCommand) -> Self {
        let big = LocalExecutor::new(slots).isolation(Isolation::Process).process_command(launcher);
        Self { here: LocalExecutor::new(slots), big, machine: None, services: OnceLock::new() }
    }

    /// The machine of tasks that say nothing.
    #[cfg(all(test, unix, feature = "testing"))]
    fn machine(mut self, name: &str) -> Self {
        self.machine = Some(name.to_owned());
        self
    }

    /// Ends an attempt that cannot be run. It would fail again, so it is not tried again.
    fn refuse(&self, attempt: &Attempt, error: String) {
        let Some(services) = self.services.get() else { return };
        let (run, key, id) = (attempt.run.pk, attempt.key(), attempt.ti.attempt_id);
        let outcome = Outcome::Failed { error, retryable: false, after: None };
        // A scheduler that is gone takes no report; the attempt is found lost by the next one.
        let _ = services.reports.send(Report { outcome, ..Report::handed_back(run, key, id, attempt.at) });
    }
}

#[async_trait]
impl Executor for Launching {
    fn name(&self) -> &'static str {
        "launching"
    }

    fn slots(&self) -> usize {
        self.here.slots()
    }

    fn start(&self, services: ExecutorServices) {
        self.here.start(services.clone());
        self.big.start(services.clone());
        // A second start would only change who gets reports.
        let _ = self.services.set(services);
    }

    fn submit(&self, attempt: Attempt) -> Result<(), SubmitError> {
        let config = attempt.terms.executor_config.as_deref();
        match config.and_then(|config| config["machine"].as_str()).or(self.machine.as_deref()) {
            None => self.here.submit(attempt),
            Some("big") => self.big.submit(attempt),
            Some(other) => {
                self.refuse(&attempt, format!("there is no machine `{other}`; write `big`, or nothing"));
                Ok(())
            }
        }
    }

    fn cancel(&self, attempt: AttemptId) {
        // Who does not know it ignores it.
        self.here.cancel(attempt);
        self.big.cancel(attempt);
    }

    async fn stop(&self, grace: Duration) {
        tokio::join!(self.here.stop(grace), self.big.stop(grace));
    }
}

/// Says where it runs; the launcher has written it into the environment.
#[task]
async fn place() -> Result<String> {
    Ok(std::env::var("MACHINE").unwrap_or_else(|_| "here".into()))
}

#[dag]
fn places(d: &Dag) {
    d.add(place::call().id("small"));
    d.add(place::call().id("large").executor_config(json!({ "machine": "big" })));
    d.add(place::call().id("wrong").executor_config(json!({ "machine": "bg" })));
}

/// This program again, with these arguments, started by the launcher.
fn launcher(args: impl IntoIterator<Item = std::ffi::OsString>) -> std::io::Result<ProcessCommand> {
    let program = std::env::current_exe()?;
    Ok(ProcessCommand::new("env").args(["MACHINE=big"]).args([program]).args(args))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let launcher = launcher(std::env::args_os().skip(1))?;
    // In the process of an attempt, `build` is where the attempt runs, and where the program ends.
    let airflow = Airflow::builder()
        .store(MemoryStore::new())
        .executor(Launching::new(4, launcher))
        .dag(places())
        .build()
        .await?;
    let running = airflow.start();
    let run = airflow.wait(&airflow.trigger("places").await?).await?;
    let small: String = airflow.result(&run, "small").await?;
    let large: String = airflow.result(&run, "large").await?;
    println!("small ran {small}, large ran on the machine `{large}`");
    let attempts = airflow.store().attempts(run.pk, None).await?;
    let error = attempts.iter().find_map(|attempt| attempt.end.as_ref()?.error.clone());
    println!("wrong: {}", error.as_deref().unwrap_or("no error"));
    running.stop(secs(5)).await?;
    if (small.as_str(), large.as_str()) != ("here", "big") || error.is_none() {
        return Err("the executor did something else".into());
    }
    Ok(())
}

#[cfg(all(test, unix, feature = "testing"))]
mod tests {
    use std::sync::Arc;

    use airflow::store::{SharedStore, Store as _};
    use airflow::testing::executor_suite::{Deployment, Ground, dags};

    use super::*;

    /// Where the store of the process of an attempt is.
    const STORE: &str = "AIRFLOW_TEST_LAUNCHED_STORE";

    async fn open(path: &str) -> SharedStore {
        let store = SqliteStore::open(path).await.expect("a store");
        store.migrate().await.expect("it has tables");
        Arc::new(store)
    }

    /// Not a test: what a launched process does. It ends in `build`.
    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "no test: the program of attempts, which the tests of this file start"]
    async fn a_launched_process() {
        let Ok(store) = std::env::var(STORE) else { return };
        let builder = Airflow::builder().shared_store(open(&store).await).dags(dags());
        builder.build().await.expect("the dags have no mistakes");
    }

    struct Launched;

    struct LaunchedDeployment {
        store: SharedStore,
        path: String,
        _folder: tempfile::TempDir,
    }

    #[async_trait]
    impl Ground for Launched {
        async fn deploy(&self) -> Box<dyn Deployment> {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("airflow.db").display().to_string();
            Box::new(LaunchedDeployment { store: open(&path).await, path, _folder: folder })
        }
    }

    #[async_trait]
    impl Deployment for LaunchedDeployment {
        fn store(&self) -> SharedStore {
            Arc::clone(&self.store)
        }

        fn executor(&self) -> Arc<dyn Executor> {
            let args = ["--exact", "tests::a_launched_process", "--ignored", "--nocapture"];
            let launcher = launcher(args.map(Into::into)).expect("the program is there");
            Arc::new(Launching::new(3, launcher.env(STORE, &self.path)).machine("big"))
        }

        fn slots(&self) -> usize {
            3
        }

        async fn close(self: Box<Self>) {}
    }

    airflow::executor_conformance!(Launched);
}
