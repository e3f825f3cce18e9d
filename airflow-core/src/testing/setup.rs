//! What a test says before anything runs; the same for one run and for a simulation.

use std::sync::Arc;
use std::time::Duration;

use crate::app::{Airflow, AirflowBuilder};
use crate::connection::Connection;
use crate::dag::DagDef;
use crate::operator::AnyOperator;
use crate::store::PoolSpec;

use super::mocks::Mocks;

/// How many attempts run at once, unless the test says otherwise: enough for limits of dags and pools to show.
const SLOTS: usize = 32;

/// How long a task may wait for something real, unless the test says otherwise: long enough for a database on a
/// loaded machine, short enough to notice a task that hangs.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct Setup {
    pub(super) builder: AirflowBuilder,
    pub(super) mocks: Arc<Mocks>,
    pub(super) variables: Vec<(String, String)>,
    pub(super) connections: Vec<Connection>,
    pub(super) pools: Vec<PoolSpec>,
    pub(super) slots: usize,
    pub(super) patience: Duration,
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup").field("slots", &self.slots).finish_non_exhaustive()
    }
}

impl Setup {
    pub(super) fn new(dags: impl IntoIterator<Item = DagDef>) -> Self {
        Self {
            builder: Airflow::builder().dags(dags),
            mocks: Arc::default(),
            variables: Vec::new(),
            connections: Vec::new(),
            pools: Vec::new(),
            slots: SLOTS,
            patience: PATIENCE,
        }
    }

    pub(super) fn pool(&mut self, name: &str, slots: i32) {
        let (name, description) = (name.to_owned(), String::new());
        self.pools.push(PoolSpec { name, slots, description, include_deferred: false });
    }

    /// Lets mocked tasks lack resources.
    pub(super) fn excuse_mocked(&mut self) {
        let mocks = Arc::clone(&self.mocks);
        let builder = std::mem::take(&mut self.builder);
        self.builder =
            builder.excuse(move |id: &str, operator: &dyn AnyOperator| mocks.replaces(id, operator));
    }
}

/// Ends the test.
#[track_caller]
pub(super) fn complain(why: &str) -> ! {
    panic!("{why}")
}

/// The methods that [`DagTest`](super::DagTest) and [`SimBuilder`](super::SimBuilder) share.
macro_rules! setup_methods {
    () => {
        /// Registers a value that tasks borrow, as [`AirflowBuilder::resource`](crate::app::AirflowBuilder::resource).
        /// Mocked tasks need none.
        pub fn resource<T: Send + Sync + 'static>(mut self, value: T) -> Self {
            self.setup.builder = self.setup.builder.resource(value);
            self
        }

        /// Adds a connection.
        pub fn connection(mut self, connection: $crate::connection::Connection) -> Self {
            self.setup.connections.push(connection);
            self
        }

        /// Sets a variable.
        pub fn variable(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
            self.setup.variables.push((key.into(), value.into()));
            self
        }

        /// Makes a pool of so many slots; -1 = unlimited. A pool that a task names and the test does not is unlimited.
        pub fn pool(mut self, name: &str, slots: i32) -> Self {
            self.setup.pool(name, slots);
            self
        }

        /// How many attempts may run at once.
        pub fn slots(mut self, slots: usize) -> Self {
            self.setup.slots = slots;
            self
        }

        /// How long a task may wait for something real, such as a database, before it counts as hanging. Default 5
        /// seconds. Then its `timeout` comes, on the simulated clock; without one the test fails.
        pub fn patience(mut self, patience: std::time::Duration) -> Self {
            self.setup.patience = patience;
            self
        }

        /// Runs `answer` instead of the body of every task made from the operator `O`. Template fields are still
        /// rendered, limits and retries still apply, resources are not needed.
        pub fn mock<O: crate::operator::Operator>(
            self,
            answer: impl Fn(&crate::operator::TaskContext) -> crate::operator::Result<O::Output>
            + Send
            + Sync
            + 'static,
        ) -> Self {
            self.setup.mocks.answer(super::mocks::For::operator::<O>(), true, answer);
            self
        }

        /// As [`mock`](Self::mock), for the one task of this id; it must return a `T`.
        pub fn mock_id<T: crate::xcom::Data>(
            self,
            task_id: impl Into<String>,
            answer: impl Fn(&crate::operator::TaskContext) -> crate::operator::Result<T> + Send + Sync + 'static,
        ) -> Self {
            self.setup.mocks.answer(super::mocks::For::Id(task_id.into()), false, answer);
            self
        }

        /// Lets the first `tries` tries of every instance of tasks made from `O` fail.
        pub fn fail<O: crate::operator::Operator>(self, tries: u32) -> Self {
            self.setup.mocks.failing_tries(super::mocks::For::operator::<O>(), tries);
            self
        }

        /// As [`fail`](Self::fail), for the one task of this id.
        pub fn fail_id(self, task_id: impl Into<String>, tries: u32) -> Self {
            self.setup.mocks.failing_tries(super::mocks::For::Id(task_id.into()), tries);
            self
        }

        /// Lets every attempt of tasks made from `O` take this long on the simulated clock, before its body or mock.
        /// Attempts take no time otherwise.
        pub fn takes<O: crate::operator::Operator>(self, duration: std::time::Duration) -> Self {
            self.setup.mocks.takes(super::mocks::For::operator::<O>(), duration);
            self
        }

        /// As [`takes`](Self::takes), for the one task of this id.
        pub fn takes_id(self, task_id: impl Into<String>, duration: std::time::Duration) -> Self {
            self.setup.mocks.takes(super::mocks::For::Id(task_id.into()), duration);
            self
        }
    };
}
pub(super) use setup_methods;
