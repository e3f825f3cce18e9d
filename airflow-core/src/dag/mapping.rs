//! What a task or group can be mapped over.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::operator::Expand;
use crate::xcom::Data;

use super::handle::{Handle, Mapped};

/// A collection whose elements become instances of a mapped task.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be mapped over",
    label = "not a collection",
    note = "map over the handle of a task that returns a `Vec` or a `BTreeMap`, over a mapped task, or over a constant list"
)]
pub trait MapOver {
    /// One element.
    type Item: Data;

    /// As an expression; adds the definitions of the handles in it to `tokens`.
    ///
    /// # Errors
    ///
    /// What serde says of a constant that is no JSON.
    fn expand(self, tokens: &mut Vec<u64>) -> Result<Expand, String>;
}

impl<T: Data> MapOver for Handle<'_, Vec<T>> {
    type Item = T;

    fn expand(self, tokens: &mut Vec<u64>) -> Result<Expand, String> {
        tokens.push(self.dag.token());
        Ok(Expand::Output(self.task))
    }
}

impl<K: Data + Ord, V: Data> MapOver for Handle<'_, BTreeMap<K, V>> {
    type Item = (K, V);

    fn expand(self, tokens: &mut Vec<u64>) -> Result<Expand, String> {
        tokens.push(self.dag.token());
        Ok(Expand::Output(self.task))
    }
}

impl MapOver for Handle<'_, Value> {
    type Item = Value;

    fn expand(self, tokens: &mut Vec<u64>) -> Result<Expand, String> {
        tokens.push(self.dag.token());
        Ok(Expand::Output(self.task))
    }
}

impl<T: Data> MapOver for Mapped<'_, T> {
    type Item = T;

    fn expand(self, tokens: &mut Vec<u64>) -> Result<Expand, String> {
        tokens.push(self.dag.token());
        Ok(Expand::Collected(self.task))
    }
}

fn literal<T: Data>(values: impl IntoIterator<Item = T>) -> Result<Expand, String> {
    let values =
        values.into_iter().map(|value| serde_json::to_value(value).map_err(|error| error.to_string()));
    Ok(Expand::Literal(values.collect::<Result<_, _>>()?))
}

impl<T: Data> MapOver for Vec<T> {
    type Item = T;

    fn expand(self, _: &mut Vec<u64>) -> Result<Expand, String> {
        literal(self)
    }
}

impl<T: Data, const N: usize> MapOver for [T; N] {
    type Item = T;

    fn expand(self, _: &mut Vec<u64>) -> Result<Expand, String> {
        literal(self)
    }
}

/// See [`zip`].
#[derive(Debug, Clone)]
pub struct Zip<A, B, F = ()>(A, B, F);

/// See [`product`].
#[derive(Debug, Clone)]
pub struct Product<A, B>(A, B);

/// See [`concat()`].
#[derive(Debug, Clone)]
pub struct Concat<A, B>(A, B);

/// Pairs two collections element by element, as long as the shorter one.
pub fn zip<A: MapOver, B: MapOver>(a: A, b: B) -> Zip<A, B> {
    Zip(a, b, ())
}

/// Pairs two collections element by element, as long as the longer one; `fill` stands for missing elements.
pub fn zip_longest<A: MapOver, B: MapOver<Item = A::Item>>(
    a: A,
    b: B,
    fill: A::Item,
) -> Zip<A, B, Fill<A::Item>> {
    Zip(a, b, Fill(fill))
}

/// Every combination of two collections; the second one varies fastest.
pub fn product<A: MapOver, B: MapOver>(a: A, b: B) -> Product<A, B> {
    Product(a, b)
}

/// One collection after the other.
pub fn concat<A: MapOver, B: MapOver<Item = A::Item>>(a: A, b: B) -> Concat<A, B> {
    Concat(a, b)
}

/// What [`zip_longest`] fills up with.
#[derive(Debug, Clone)]
pub struct Fill<T>(T);

impl<A: MapOver, B: MapOver> MapOver for Zip<A, B> {
    type Item = (A::Item, B::Item);

    fn expand(self, tokens: &mut Vec<u64>) -> Result<Expand, String> {
        Ok(Expand::Zip(vec![self.0.expand(tokens)?, self.1.expand(tokens)?], None))
    }
}

impl<A: MapOver, B: MapOver<Item = A::Item>> MapOver for Zip<A, B, Fill<A::Item>> {
    type Item = (A::Item, B::Item);

    fn expand(self, tokens: &mut Vec<u64>) -> Result<Expand, String> {
        let fill = serde_json::to_value(self.2.0).map_err(|error| error.to_string())?;
        Ok(Expand::Zip(vec![self.0.expand(tokens)?, self.1.expand(tokens)?], Some(fill)))
    }
}

impl<A: MapOver, B: MapOver> MapOver for Product<A, B> {
    type Item = (A::Item, B::Item);

    fn expand(self, tokens: &mut Vec<u64>) -> Result<Expand, String> {
        Ok(Expand::Product(vec![self.0.expand(tokens)?, self.1.expand(tokens)?]))
    }
}

impl<A: MapOver, B: MapOver<Item = A::Item>> MapOver for Concat<A, B> {
    type Item = A::Item;

    fn expand(self, tokens: &mut Vec<u64>) -> Result<Expand, String> {
        Ok(Expand::Concat(vec![self.0.expand(tokens)?, self.1.expand(tokens)?]))
    }
}

/// How what is defined inside a mapped group looks from outside.
pub trait Outside {
    /// The same, mapped.
    type Out;

    /// Steps out of the group.
    fn outside(self) -> Self::Out;
}

impl Outside for () {
    type Out = ();

    fn outside(self) {}
}

impl<'d, T> Outside for Handle<'d, T> {
    type Out = Mapped<'d, T>;

    fn outside(self) -> Mapped<'d, T> {
        Mapped::new(self.dag, self.task)
    }
}

impl<A: Outside, B: Outside> Outside for (A, B) {
    type Out = (A::Out, B::Out);

    fn outside(self) -> Self::Out {
        (self.0.outside(), self.1.outside())
    }
}

impl<A: Outside, B: Outside, C: Outside> Outside for (A, B, C) {
    type Out = (A::Out, B::Out, C::Out);

    fn outside(self) -> Self::Out {
        (self.0.outside(), self.1.outside(), self.2.outside())
    }
}
