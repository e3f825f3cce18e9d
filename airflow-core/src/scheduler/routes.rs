//! Which executor runs which task, and how much room there is.
//!
//! Whatever runs in this process has the slots of its executor. What workers run has as many in each queue: a queue that
//! nobody serves fills up, and must not keep the other ones from being served.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
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
        &self.all[place.executor]
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

/// One of the executors, and of a remote one a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Its number.
    executor: usize,
    /// The hash of the queue's name, as far as that counts: two that have the same share their room.
    queue: u64,
}

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
        self.place(task.settings.executor.as_deref(), task.settings.queue_in(of_run))
    }

    fn place(&self, executor: Option<&str>, queue: &str) -> Place {
        let named = executor.and_then(|name| self.places.iter().position(|place| place.name == *name));
        let executor = named.or_else(|| self.queues.get(queue).copied()).unwrap_or(0);
        let is_remote = self.places.get(executor).is_some_and(|place| place.is_remote);
        Place { executor, queue: if is_remote { hash(queue) } else { 0 } }
    }

    pub(super) fn is_remote(&self, place: Place) -> bool {
        self.places[place.executor].is_remote
    }
}

fn hash(queue: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    queue.hash(&mut hasher);
    hasher.finish()
}

/// How much room is left in each place.
#[derive(Debug, Clone)]
pub(super) struct Room {
    /// Of each executor: how much room each of its places has, and whether there may be places that nothing was sent to yet.
    slots: Vec<(usize, bool)>,
    taken: BTreeMap<Place, usize>,
}

impl Room {
    /// Whether there is none anywhere.
    pub(super) fn is_empty(&self) -> bool {
        let is_full = |(executor, (slots, is_remote)): (usize, &(usize, bool))| {
            !is_remote && *slots <= self.taken.get(&Place { executor, queue: 0 }).copied().unwrap_or(0)
        };
        self.slots.iter().enumerate().all(is_full)
    }

    /// How much more could be started, if it went to where there is the most room in each executor.
    pub(super) fn total(&self) -> usize {
        let mut least = vec![None; self.slots.len()];
        for (place, taken) in &self.taken {
            let least = &mut least[place.executor];
            *least = Some(least.map_or(*taken, |least: usize| least.min(*taken)));
        }
        let free =
            |((slots, _), taken): (&(usize, bool), Option<usize>)| slots.saturating_sub(taken.unwrap_or(0));
        self.slots.iter().zip(least).map(free).fold(0, usize::saturating_add)
    }

    pub(super) fn has(&self, place: Place) -> bool {
        self.slots[place.executor].0 > self.taken.get(&place).copied().unwrap_or(0)
    }

    pub(super) fn take(&mut self, place: Place) {
        *self.taken.entry(place).or_default() += 1;
    }
}

/// How many attempts each place has out. Places that had some once stay: there are as many as queues.
#[derive(Debug, Clone, Default)]
pub(super) struct Taken(BTreeMap<Place, usize>);

impl Taken {
    pub(super) fn add(&mut self, place: Place) {
        *self.0.entry(place).or_default() += 1;
    }

    pub(super) fn remove(&mut self, place: Place) {
        if let Some(taken) = self.0.get_mut(&place) {
            *taken = taken.saturating_sub(1);
        }
    }

    pub(super) fn room(&self, routes: &Routes) -> Room {
        let slots = routes.places.iter().map(|place| (place.slots, place.is_remote)).collect();
        Room { slots, taken: self.0.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dag::{DagDef, TaskExt as _};
    use crate::operator::Empty;

    fn routes() -> Routes {
        let rooms = |name: &str, slots, is_remote| Rooms { name: name.to_owned(), slots, is_remote };
        Routes {
            places: vec![rooms("local", 2, false), rooms("redis", 3, true)],
            queues: BTreeMap::from([("gpu".to_owned(), 1), ("cpu".to_owned(), 1)]),
        }
    }

    /// Goal: what is local has its executor's slots, whatever the queue; what is remote has as many in each queue, and one that
    /// is full takes nothing from the others.
    #[test]
    fn a_full_queue_of_a_remote_executor_leaves_the_others_their_room() {
        let (routes, mut taken) = (routes(), Taken::default());
        let (gpu, cpu) = (routes.place(None, "gpu"), routes.place(None, "cpu"));
        let (here, also_here) = (routes.place(None, "default"), routes.place(Some("local"), "gpu"));
        assert_eq!(here, also_here);
        assert!(gpu != cpu && routes.is_remote(gpu) && !routes.is_remote(here));
        assert_eq!(routes.place(Some("redis"), "gpu"), gpu);
        assert_eq!(taken.room(&routes).total(), 5, "nothing is out yet");
        for _ in 0..3 {
            taken.add(gpu);
        }
        let room = taken.room(&routes);
        assert!(!room.has(gpu) && room.has(cpu) && room.has(here));
        let mut room = room;
        room.take(cpu);
        assert_eq!(room.total(), 2 + 2, "two more here, two more in the emptier queue");
        room.take(here);
        room.take(here);
        assert!(!room.has(here) && !room.is_empty(), "there may be queues that nobody has used yet");
        taken.remove(gpu);
        assert!(taken.room(&routes).has(gpu));
    }

    #[test]
    fn what_runs_here_alone_can_be_full() {
        let mut routes = routes();
        routes.places.truncate(1);
        routes.queues.clear();
        let mut taken = Taken::default();
        taken.add(routes.place(None, "gpu"));
        assert!(!taken.room(&routes).is_empty());
        taken.add(routes.place(None, "cpu"));
        let room = taken.room(&routes);
        assert!(room.is_empty() && room.total() == 0 && !room.has(routes.place(None, "default")));
    }

    /// Goal: the queue of a run leads its tasks to the executor of that queue, but no task that names a queue itself.
    #[test]
    fn a_run_with_a_queue_goes_to_its_executor() {
        let dag = DagDef::new("d").define(|d| {
            d.add(Empty::new().id("plain"));
            d.add(Empty::new().id("own").queue("big"));
        });
        let dag = dag.compile().expect("it is sound");
        let place = |name: &str| Rooms { name: name.to_owned(), slots: 1, is_remote: true };
        let queues = BTreeMap::from([("gpu".to_owned(), 1), ("big".to_owned(), 2)]);
        let routes = Routes { places: ["first", "gpus", "bigs"].map(place).to_vec(), queues };
        let of = |task: &str, queue| routes.of(dag.task(dag.find(task).expect("it is there")), queue);
        assert_eq!(
            [of("plain", None), of("plain", Some("gpu")), of("plain", Some("x"))],
            [routes.place(None, "default"), routes.place(None, "gpu"), routes.place(None, "x")]
        );
        assert_eq!([of("own", None), of("own", Some("gpu"))], [routes.place(None, "big"); 2]);
        assert_eq!(
            ["default", "gpu", "x", "big"].map(|queue| routes.place(None, queue).executor),
            [0, 1, 0, 2]
        );
    }
}
