//! Order without data: `a >> b`, `[a, b] >> c`, `(a, b) >> c`, labels, chains.

use std::ops::{Shl, Shr};

use crate::id::TaskIdx;

use super::builder::Dag;
use super::handle::{Group, Handle, Mapped, Node};
use super::problem::{Place, Problem, ProblemKind};

/// One end of an edge as the user wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A task.
    Task(TaskIdx),
    /// A group, by its number.
    Group(usize),
}

/// Something an edge can begin or end at: a handle, a group, or several of them in a tuple, array or vector.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be ordered with `>>`",
    label = "not a task or group of a dag",
    note = "use what `d.add`, `d.map` or `d.group` returned"
)]
pub trait NodeSet {
    /// Adds its ends, each with the definition it belongs to.
    fn endpoints(&self, found: &mut Vec<(u64, Endpoint)>);

    /// The definition it belongs to, unless it is empty.
    fn dag(&self) -> Option<&Dag>;

    /// Whether it counts as a list in `chain`.
    fn is_list(&self) -> bool {
        true
    }
}

/// The text on an edge. See [`label`].
#[derive(Debug, Clone)]
pub struct Label(String);

/// A text for an edge: `a >> label("on success") >> b`.
pub fn label(text: impl Into<String>) -> Label {
    Label(text.into())
}

/// The left half of an edge that has a label.
#[derive(Debug)]
pub struct Labeled<'d> {
    dag: &'d Dag,
    from: Vec<(u64, Endpoint)>,
    label: String,
}

impl NodeSet for Labeled<'_> {
    fn endpoints(&self, found: &mut Vec<(u64, Endpoint)>) {
        found.extend_from_slice(&self.from);
    }

    fn dag(&self) -> Option<&Dag> {
        Some(self.dag)
    }
}

macro_rules! single {
    ($(($($gen:tt)*) $name:ty => $make:expr;)+) => { $(
        impl<'d $($gen)*> NodeSet for $name {
            fn endpoints(&self, found: &mut Vec<(u64, Endpoint)>) {
                let make: fn(&Self) -> Endpoint = $make;
                found.push((self.dag.token(), make(self)));
            }

            fn dag(&self) -> Option<&Dag> {
                Some(self.dag)
            }

            fn is_list(&self) -> bool {
                false
            }
        }

        impl<'d $($gen)*, R: NodeSet> Shr<R> for $name {
            type Output = R;

            #[track_caller]
            fn shr(self, right: R) -> R {
                self.dag.link(&self, &right, None);
                right
            }
        }

        impl<'d $($gen)*, R: NodeSet> Shl<R> for $name {
            type Output = R;

            #[track_caller]
            fn shl(self, right: R) -> R {
                self.dag.link(&right, &self, None);
                right
            }
        }

        impl<'d $($gen)*> Shr<Label> for $name {
            type Output = Labeled<'d>;

            fn shr(self, right: Label) -> Labeled<'d> {
                let mut from = Vec::new();
                self.endpoints(&mut from);
                Labeled { dag: self.dag, from, label: right.0 }
            }
        }
    )+ };
}

single! {
    (, T) Handle<'d, T> => |h| Endpoint::Task(h.task);
    (, T) Mapped<'d, T> => |h| Endpoint::Task(h.task);
    () Node<'d> => |h| Endpoint::Task(h.task);
    () Group<'d> => |h| Endpoint::Group(h.group);
}

impl<R: NodeSet> Shr<R> for Labeled<'_> {
    type Output = R;

    #[track_caller]
    fn shr(self, right: R) -> R {
        self.dag.link(&self, &right, Some(&self.label));
        right
    }
}

macro_rules! foreign_left {
    ($(($($gen:tt)*) $right:ty;)+) => { $(
        impl<'d $($gen)*, L: NodeSet, const N: usize> Shr<$right> for [L; N] {
            type Output = $right;

            #[track_caller]
            fn shr(self, right: $right) -> $right {
                right.dag.link(&self, &right, None);
                right
            }
        }

        impl<'d $($gen)*, L: NodeSet, const N: usize> Shl<$right> for [L; N] {
            type Output = $right;

            #[track_caller]
            fn shl(self, right: $right) -> $right {
                right.dag.link(&right, &self, None);
                right
            }
        }

        impl<'d $($gen)*, L: NodeSet> Shr<$right> for Vec<L> {
            type Output = $right;

            #[track_caller]
            fn shr(self, right: $right) -> $right {
                right.dag.link(&self, &right, None);
                right
            }
        }

        impl<'d $($gen)*, L: NodeSet> Shl<$right> for Vec<L> {
            type Output = $right;

            #[track_caller]
            fn shl(self, right: $right) -> $right {
                right.dag.link(&right, &self, None);
                right
            }
        }

        tuples_left! { ($($gen)*) $right; A B }
        tuples_left! { ($($gen)*) $right; A B C }
        tuples_left! { ($($gen)*) $right; A B C D }
        tuples_left! { ($($gen)*) $right; A B C D E }
        tuples_left! { ($($gen)*) $right; A B C D E F }
        tuples_left! { ($($gen)*) $right; A B C D E F G }
        tuples_left! { ($($gen)*) $right; A B C D E F G H }
    )+ };
}

macro_rules! tuples_left {
    (($($gen:tt)*) $right:ty; $($name:ident)+) => {
        impl<'d $($gen)*, $($name: NodeSet),+> Shr<$right> for ($($name,)+) {
            type Output = $right;

            #[track_caller]
            fn shr(self, right: $right) -> $right {
                right.dag.link(&self, &right, None);
                right
            }
        }

        impl<'d $($gen)*, $($name: NodeSet),+> Shl<$right> for ($($name,)+) {
            type Output = $right;

            #[track_caller]
            fn shl(self, right: $right) -> $right {
                right.dag.link(&right, &self, None);
                right
            }
        }
    };
}

foreign_left! {
    (, T) Handle<'d, T>;
    (, T) Mapped<'d, T>;
    () Node<'d>;
    () Group<'d>;
}

impl<L: NodeSet, const N: usize> NodeSet for [L; N] {
    fn endpoints(&self, found: &mut Vec<(u64, Endpoint)>) {
        self.iter().for_each(|node| node.endpoints(found));
    }

    fn dag(&self) -> Option<&Dag> {
        self.iter().find_map(NodeSet::dag)
    }
}

impl<L: NodeSet> NodeSet for Vec<L> {
    fn endpoints(&self, found: &mut Vec<(u64, Endpoint)>) {
        self.iter().for_each(|node| node.endpoints(found));
    }

    fn dag(&self) -> Option<&Dag> {
        self.iter().find_map(NodeSet::dag)
    }
}

impl<L: NodeSet> NodeSet for &L {
    fn endpoints(&self, found: &mut Vec<(u64, Endpoint)>) {
        (*self).endpoints(found);
    }

    fn dag(&self) -> Option<&Dag> {
        (*self).dag()
    }

    fn is_list(&self) -> bool {
        (*self).is_list()
    }
}

type Link = (bool, Vec<(u64, Endpoint)>);

fn link_of(node: &impl NodeSet) -> Link {
    let mut found = Vec::new();
    node.endpoints(&mut found);
    (node.is_list(), found)
}

/// The links of `d.chain(..)`: a tuple of handles, groups and lists, or an array or vector of one kind of them.
pub trait Chain {
    /// Each link, with whether it is a list.
    fn links(&self) -> Vec<Link>;
}

impl<L: NodeSet, const N: usize> Chain for [L; N] {
    fn links(&self) -> Vec<Link> {
        self.iter().map(link_of).collect()
    }
}

impl<L: NodeSet> Chain for Vec<L> {
    fn links(&self) -> Vec<Link> {
        self.iter().map(link_of).collect()
    }
}

macro_rules! tuple_sets {
    ($($name:ident)+) => {
        impl<$($name: NodeSet),+> NodeSet for ($($name,)+) {
            #[expect(non_snake_case, reason = "type names double as variable names in this macro")]
            fn endpoints(&self, found: &mut Vec<(u64, Endpoint)>) {
                let ($($name,)+) = self;
                $($name.endpoints(found);)+
            }

            #[expect(non_snake_case, reason = "type names double as variable names in this macro")]
            fn dag(&self) -> Option<&Dag> {
                let ($($name,)+) = self;
                None $(.or_else(|| $name.dag()))+
            }
        }

        impl<$($name: NodeSet),+> Chain for ($($name,)+) {
            #[expect(non_snake_case, reason = "type names double as variable names in this macro")]
            fn links(&self) -> Vec<Link> {
                let ($($name,)+) = self;
                vec![$(link_of($name)),+]
            }
        }
    };
}

tuple_sets! { A B }
tuple_sets! { A B C }
tuple_sets! { A B C D }
tuple_sets! { A B C D E }
tuple_sets! { A B C D E F }
tuple_sets! { A B C D E F G }
tuple_sets! { A B C D E F G H }

impl Dag {
    /// Orders links one after the other: `d.chain((a, [b, c], [e, f], g))`. Two lists side by side must have the same
    /// length and are joined one to one; a single task and a list are joined one to all.
    ///
    /// ```
    /// use airflow_core::dag::{DagDef, TaskExt};
    /// use airflow_core::operator::Empty;
    ///
    /// let dag = DagDef::new("d").define(|d| {
    ///     let [a, b, c, e, f, g] = ["a", "b", "c", "e", "f", "g"].map(|id| d.add(Empty::new().id(id)));
    ///     d.chain((a, [b, c], [e, f], g));
    /// });
    /// let dag = dag.compile()?;
    /// let upstream = |task: usize| -> String {
    ///     dag.tasks[task].upstream.iter().map(|up| dag.task(*up).id.as_str()).collect()
    /// };
    /// assert_eq!([0, 1, 2, 3, 4, 5].map(upstream), ["", "a", "a", "b", "c", "ef"]);
    /// # Ok::<(), airflow_core::compile::DefinitionErrors>(())
    /// ```
    #[track_caller]
    pub fn chain(&self, links: impl Chain) {
        let place = Place::caller();
        for pair in links.links().windows(2) {
            let [(left_list, left), (right_list, right)] = pair else { continue };
            if *left_list && *right_list && left.len() != right.len() && !left.is_empty() && !right.is_empty()
            {
                let kind = ProblemKind::UnequalChain { left: left.len(), right: right.len() };
                self.report(Problem { kind, place });
            } else if *left_list && *right_list {
                left.iter().zip(right).for_each(|(a, b)| self.connect(&[*a], &[*b], None, place));
            } else {
                self.connect(left, right, None, place);
            }
        }
    }

    /// Orders links one after the other, joining neighbouring lists all to all.
    ///
    /// ```
    /// # use airflow_core::dag::{DagDef, TaskExt};
    /// # use airflow_core::operator::Empty;
    /// let dag = DagDef::new("d").define(|d| {
    ///     let [a, b, c, e, f] = ["a", "b", "c", "e", "f"].map(|id| d.add(Empty::new().id(id)));
    ///     d.chain_linear((a, [b, c], [e, f])); // `e` and `f` each wait for `b` and `c`
    /// });
    /// let upstream: Vec<usize> = dag.compile()?.tasks.iter().map(|task| task.upstream.len()).collect();
    /// assert_eq!(upstream, [0, 1, 1, 2, 2]);
    /// # Ok::<(), airflow_core::compile::DefinitionErrors>(())
    /// ```
    #[track_caller]
    pub fn chain_linear(&self, links: impl Chain) {
        let place = Place::caller();
        let links = links.links();
        let mut edges = 0;
        for pair in links.windows(2) {
            let [(_, left), (_, right)] = pair else { continue };
            edges += left.len() * right.len();
            self.connect(left, right, None, place);
        }
        if edges == 0 {
            self.report(Problem { kind: ProblemKind::ShortChain, place });
        }
    }

    /// Orders every task of `right` after every task of `left`.
    ///
    /// ```
    /// # use airflow_core::dag::{DagDef, TaskExt};
    /// # use airflow_core::operator::Empty;
    /// let dag = DagDef::new("d").define(|d| {
    ///     let left = ["a", "b"].map(|id| d.add(Empty::new().id(id)));
    ///     let right = ["c", "e", "f"].map(|id| d.add(Empty::new().id(id)));
    ///     d.cross_downstream(left, right);
    /// });
    /// let upstream: Vec<usize> = dag.compile()?.tasks.iter().map(|task| task.upstream.len()).collect();
    /// assert_eq!(upstream, [0, 0, 2, 2, 2]);
    /// # Ok::<(), airflow_core::compile::DefinitionErrors>(())
    /// ```
    #[track_caller]
    pub fn cross_downstream(&self, left: impl NodeSet, right: impl NodeSet) {
        let place = Place::caller();
        self.connect(&link_of(&left).1, &link_of(&right).1, None, place);
    }

    /// Takes the value of an order expression, so that `d.order(a >> b >> c)` does not warn of an unused value.
    ///
    /// ```
    /// # use airflow_core::dag::{DagDef, TaskExt, label};
    /// # use airflow_core::operator::Empty;
    /// let dag = DagDef::new("d").define(|d| {
    ///     let [a, b, c] = ["a", "b", "c"].map(|id| d.add(Empty::new().id(id)));
    ///     d.order(a >> label("first") >> b);
    ///     d.order(c << [a, b]);
    /// });
    /// let dag = dag.compile()?;
    /// assert_eq!((dag.roots().len(), dag.tasks[2].upstream.len()), (1, 2));
    /// # Ok::<(), airflow_core::compile::DefinitionErrors>(())
    /// ```
    pub fn order(&self, _: impl NodeSet) {}
}
