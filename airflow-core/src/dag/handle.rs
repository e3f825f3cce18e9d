//! What stands for tasks while a dag is being defined: typed handles, groups, untyped nodes.

use std::fmt;
use std::marker::PhantomData;

use crate::id::TaskIdx;
use crate::operator::{In, InputRef, IntoIn};
use crate::xcom::Data;

use super::builder::Dag;
use super::edges::{Endpoint, NodeSet};

/// A task that was added, and the type of its result. Copy it freely; pass it where a task wants a `T`.
pub struct Handle<'d, T> {
    pub(crate) dag: &'d Dag,
    pub(crate) task: TaskIdx,
    output: PhantomData<fn() -> T>,
}

/// A mapped task: as many instances as its collection has elements. Pass it where a task wants a `Vec<T>`, or map
/// over it again.
pub struct Mapped<'d, T> {
    pub(crate) dag: &'d Dag,
    pub(crate) task: TaskIdx,
    output: PhantomData<fn() -> T>,
}

// Derived, these would ask for a result that is itself `Copy`.
macro_rules! copy_whatever_the_result {
    ($name:ident) => {
        impl<T> Clone for $name<'_, T> {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<T> Copy for $name<'_, T> {}

        impl<T> fmt::Debug for $name<'_, T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($name)).field(&self.task).finish()
            }
        }
    };
}

copy_whatever_the_result!(Handle);
copy_whatever_the_result!(Mapped);

/// A task without the type of its result, for lists of different tasks.
#[derive(Debug, Clone, Copy)]
pub struct Node<'d> {
    pub(crate) dag: &'d Dag,
    pub(crate) task: TaskIdx,
}

/// A group of tasks. An edge to it goes to its first tasks, an edge from it leaves its last ones.
#[derive(Debug, Clone, Copy)]
pub struct Group<'d> {
    pub(crate) dag: &'d Dag,
    pub(crate) group: usize,
}

impl<'d, T> Handle<'d, T> {
    pub(crate) fn new(dag: &'d Dag, task: TaskIdx) -> Self {
        Self { dag, task, output: PhantomData }
    }

    /// Without the type.
    pub fn node(self) -> Node<'d> {
        Node { dag: self.dag, task: self.task }
    }

    /// The id of the task, groups included.
    pub fn id(self) -> String {
        self.dag.task_id(self.task).to_string()
    }

    /// Orders `next` after this task, as `self >> next` does.
    #[track_caller]
    pub fn then<N: NodeSet>(self, next: N) -> N {
        self.dag.link(&self, &next, None);
        next
    }

    /// The result seen through a function, which runs in the attempt that reads it.
    pub fn map<U: 'static>(self, f: impl Fn(T) -> U + Send + Sync + 'static) -> In<U>
    where
        T: Data,
    {
        IntoIn::<T>::into_in(self).map(f)
    }
}

impl<'d, T> Mapped<'d, T> {
    pub(crate) fn new(dag: &'d Dag, task: TaskIdx) -> Self {
        Self { dag, task, output: PhantomData }
    }

    /// Without the type.
    pub fn node(self) -> Node<'d> {
        Node { dag: self.dag, task: self.task }
    }

    /// The id of the task, groups included.
    pub fn id(self) -> String {
        self.dag.task_id(self.task).to_string()
    }

    /// Orders `next` after all instances, as `self >> next` does.
    #[track_caller]
    pub fn then<N: NodeSet>(self, next: N) -> N {
        self.dag.link(&self, &next, None);
        next
    }
}

impl Node<'_> {
    /// The id of the task, groups included.
    pub fn id(self) -> String {
        self.dag.task_id(self.task).to_string()
    }
}

impl<T: Data> IntoIn<T> for Handle<'_, T> {
    fn into_in(self) -> In<T> {
        let task = self.task;
        In::wired(Some(self.dag.token()), vec![InputRef::Output(task)], move |inputs| inputs.output(task))
    }
}

impl<T: Data> IntoIn<Option<T>> for Handle<'_, T> {
    fn into_in(self) -> In<Option<T>> {
        let task = self.task;
        In::wired(Some(self.dag.token()), vec![InputRef::Output(task)], move |inputs| inputs.optional(task))
    }
}

impl<T: Data> IntoIn<Vec<T>> for Mapped<'_, T> {
    fn into_in(self) -> In<Vec<T>> {
        let task = self.task;
        In::wired(Some(self.dag.token()), vec![InputRef::Collected(task)], move |inputs| {
            inputs.collected(task)
        })
    }
}

/// A list of handles of one type feeds a list, in the order of the handles.
impl<T: Data> IntoIn<Vec<T>> for Vec<Handle<'_, T>> {
    fn into_in(self) -> In<Vec<T>> {
        let tasks: Vec<TaskIdx> = self.iter().map(|handle| handle.task).collect();
        let refs = tasks.iter().map(|task| InputRef::Output(*task)).collect();
        let token = self.first().map(|handle| handle.dag.token());
        In::wired(token, refs, move |inputs| tasks.iter().map(|task| inputs.output(*task)).collect())
    }
}

/// The tasks that one variant of a branch leads to.
#[derive(Debug, Clone, Default)]
pub struct Nodes(pub(crate) Vec<(u64, Endpoint)>);

impl Nodes {
    /// Leads nowhere: all that follows the branch is skipped.
    pub fn none() -> Self {
        Self::default()
    }
}

impl<N: NodeSet> From<N> for Nodes {
    fn from(nodes: N) -> Self {
        let mut found = Vec::new();
        nodes.endpoints(&mut found);
        Self(found)
    }
}
