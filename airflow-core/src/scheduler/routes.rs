//! Which executor runs which task.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::compile::CompiledTask;
use crate::executor::Executor;

/// The executors of a process, and the queues that have one of their own.
#[derive(Debug, Clone, Default)]
pub struct Executors {
    all: Vec<Arc<dyn Executor>>,
    queues: BTreeMap<String, usize>,
}

impl From<Arc<dyn Executor>> for Executors {
    fn from(executor: Arc<dyn Executor>) -> Self {
        Self { all: vec![executor], queues: BTreeMap::new() }
    }
}

impl Executors {
    /// Adds an executor. The first one runs every task that says nothing else.
    pub fn push(&mut self, executor: Arc<dyn Executor>) {
        self.all.push(executor);
    }

    /// Adds an executor for the tasks of some queues.
    pub fn push_for(&mut self, queues: impl IntoIterator<Item = String>, executor: Arc<dyn Executor>) {
        let index = self.all.len();
        self.all.push(executor);
        self.queues.extend(queues.into_iter().map(|queue| (queue, index)));
    }

    /// All of them, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Executor>> {
        self.all.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn get(&self, place: Place) -> &Arc<dyn Executor> {
        &self.all[place.0]
    }

    /// What the scheduler needs to know of them.
    pub(super) fn routes(&self) -> Routes {
        let place = |executor: &Arc<dyn Executor>| Rooms {
            name: executor.name().to_owned(),
            slots: executor.slots(),
            is_remote: executor.is_remote(),
        };
        Routes { places: self.all.iter().map(place).collect(), queues: self.queues.clone() }
    }
}

/// One of the executors, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(usize);

/// What is known of an executor.
#[derive(Debug, Clone)]
struct Rooms {
    name: String,
    slots: usize,
    is_remote: bool,
}

/// Which executor runs which task, and how much room each has.
#[derive(Debug, Clone)]
pub(super) struct Routes {
    places: Vec<Rooms>,
    queues: BTreeMap<String, usize>,
}

impl Routes {
    /// The executor that the task names, else that of its queue, in a run of which the queue may be `of_run`, else the
    /// first.
    pub(super) fn of(&self, task: &CompiledTask, of_run: Option<&str>) -> Place {
        let named = task.settings.executor.as_ref();
        let named = named.and_then(|name| self.places.iter().position(|place| place.name == *name));
        let by_queue = || self.queues.get(task.settings.queue_in(of_run)).copied();
        Place(named.or_else(by_queue).unwrap_or(0))
    }

    pub(super) fn is_remote(&self, place: Place) -> bool {
        self.places[place.0].is_remote
    }

    /// How many attempts each executor may have out.
    pub(super) fn slots(&self) -> impl Iterator<Item = usize> {
        self.places.iter().map(|place| place.slots)
    }
}

/// How much room is left in each executor.
#[derive(Debug, Clone)]
pub(super) struct Room(Vec<usize>);

impl Room {
    pub(super) fn new(free: Vec<usize>) -> Self {
        Self(free)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|free| *free == 0)
    }

    pub(super) fn total(&self) -> usize {
        self.0.iter().fold(0, |sum, free| sum.saturating_add(*free))
    }

    pub(super) fn has(&self, place: Place) -> bool {
        self.0[place.0] > 0
    }

    pub(super) fn take(&mut self, place: Place) {
        self.0[place.0] -= 1;
    }
}

/// How many attempts each executor has out.
#[derive(Debug, Clone)]
pub(super) struct Taken(Vec<usize>);

impl Taken {
    pub(super) fn none(routes: &Routes) -> Self {
        Self(vec![0; routes.places.len()])
    }

    pub(super) fn add(&mut self, place: Place) {
        self.0[place.0] += 1;
    }

    pub(super) fn remove(&mut self, place: Place) {
        self.0[place.0] = self.0[place.0].saturating_sub(1);
    }

    pub(super) fn room(&self, routes: &Routes) -> Room {
        Room::new(routes.slots().zip(&self.0).map(|(slots, taken)| slots.saturating_sub(*taken)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dag::{DagDef, TaskExt as _};
    use crate::operator::Empty;

    /// Goal: the queue of a run leads its tasks to the executor of that queue, but no task that names a queue itself.
    #[test]
    fn a_run_with_a_queue_goes_to_its_executor() {
        let dag = DagDef::new("d").define(|d| {
            d.add(Empty::new().id("plain"));
            d.add(Empty::new().id("own").queue("big"));
        });
        let dag = dag.compile().expect("it is sound");
        let place = |name: &str| Rooms { name: name.to_owned(), slots: 1, is_remote: false };
        let queues = BTreeMap::from([("gpu".to_owned(), 1), ("big".to_owned(), 2)]);
        let routes = Routes { places: ["first", "gpus", "bigs"].map(place).to_vec(), queues };
        let of = |task: &str, queue| routes.of(dag.task(dag.find(task).expect("it is there")), queue);
        assert_eq!(
            [of("plain", None), of("plain", Some("gpu")), of("plain", Some("x"))],
            [0, 1, 0].map(Place)
        );
        assert_eq!([of("own", None), of("own", Some("gpu"))], [2, 2].map(Place));
    }
}
