//! Which assets must be new for a dag to run: all of some, any of some, and both inside of each other.

use std::fmt;
use std::ops::{BitAnd, BitOr};

use serde_json::{Value, json};

use super::{Asset, AssetAlias, AssetError, AssetKey, AssetRef};

/// When a dag is due by its assets. Written with `&` and `|`, or with [`Asset::all`] and [`Asset::any`].
///
/// ```
/// use airflow_core::asset::{Asset, AssetCondition};
///
/// let (a, b, c) = (Asset::new("s3://a/x"), Asset::new("s3://b/x"), Asset::new("s3://c/x"));
/// let condition: AssetCondition = &a & (&b | &c);
/// assert_eq!(condition.to_string(), "s3://a/x & (s3://b/x | s3://c/x)");
/// let new = [a.key(), c.key()];
/// assert!(condition.holds(&|key| new.contains(key)));
/// assert!(!condition.holds(&|key| *key == a.key()));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AssetCondition {
    /// The asset, or an asset under the alias, is new.
    Ref(AssetRef),
    /// All of these hold.
    All(Vec<Self>),
    /// Any of these holds.
    Any(Vec<Self>),
}

impl AssetCondition {
    /// Whether it holds, if `is_new` says of which assets and aliases there was an event.
    pub fn holds(&self, is_new: &dyn Fn(&AssetKey) -> bool) -> bool {
        match self {
            Self::Ref(one) => is_new(&one.key()),
            Self::All(parts) => parts.iter().all(|part| part.holds(is_new)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(is_new)),
        }
    }

    /// Every asset and alias it names, each once, in the order of writing.
    pub fn refs(&self) -> Vec<&AssetRef> {
        let mut found = Vec::new();
        self.collect(&mut found);
        found
    }

    fn collect<'a>(&'a self, found: &mut Vec<&'a AssetRef>) {
        match self {
            Self::Ref(one) if !found.contains(&one) => found.push(one),
            Self::Ref(_) => {}
            Self::All(parts) | Self::Any(parts) => parts.iter().for_each(|part| part.collect(found)),
        }
    }

    /// As JSON, in the form that Airflow calls the asset expression.
    ///
    /// ```
    /// use airflow_core::asset::{Asset, AssetAlias};
    /// use serde_json::json;
    ///
    /// let condition = Asset::new("s3://a/x").named("x") | AssetAlias::new("outcomes");
    /// let asset = json!({"asset": {"uri": "s3://a/x", "name": "x", "group": "asset"}});
    /// let alias = json!({"alias": {"name": "outcomes", "group": "asset"}});
    /// assert_eq!(condition.expression(), json!({"any": [asset, alias]}));
    /// ```
    pub fn expression(&self) -> Value {
        let all = |parts: &[Self]| parts.iter().map(Self::expression).collect::<Vec<_>>();
        match self {
            Self::Ref(AssetRef::Asset(asset)) => {
                json!({"asset": {"uri": asset.uri(), "name": asset.name(), "group": asset.group_name()}})
            }
            Self::Ref(AssetRef::Alias(alias)) => {
                json!({"alias": {"name": alias.name(), "group": alias.group_name()}})
            }
            Self::All(parts) => json!({"all": all(parts)}),
            Self::Any(parts) => json!({"any": all(parts)}),
        }
    }

    /// What is wrong with it or with an asset it names.
    pub fn problems(&self) -> Vec<AssetError> {
        match self {
            Self::Ref(one) => one.check().err().into_iter().collect(),
            Self::All(parts) if parts.is_empty() => vec![AssetError::NoAssets("all")],
            Self::Any(parts) if parts.is_empty() => vec![AssetError::NoAssets("any")],
            Self::All(parts) | Self::Any(parts) => parts.iter().flat_map(Self::problems).collect(),
        }
    }

    fn joined(f: &mut fmt::Formatter<'_>, parts: &[Self], sign: &str) -> fmt::Result {
        for (at, part) in parts.iter().enumerate() {
            if at > 0 {
                write!(f, " {sign} ")?;
            }
            match part {
                Self::Ref(one) => f.write_str(one.name())?,
                other => write!(f, "({other})")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for AssetCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ref(one) => f.write_str(one.name()),
            Self::All(parts) => Self::joined(f, parts, "&"),
            Self::Any(parts) => Self::joined(f, parts, "|"),
        }
    }
}

impl From<AssetRef> for AssetCondition {
    fn from(one: AssetRef) -> Self {
        Self::Ref(one)
    }
}

impl From<&Self> for AssetCondition {
    fn from(condition: &Self) -> Self {
        condition.clone()
    }
}

/// `a & b & c` is one list of three.
fn both(left: AssetCondition, right: AssetCondition) -> AssetCondition {
    let mut parts = match left {
        AssetCondition::All(parts) => parts,
        other => vec![other],
    };
    match right {
        AssetCondition::All(more) => parts.extend(more),
        other => parts.push(other),
    }
    AssetCondition::All(parts)
}

fn either(left: AssetCondition, right: AssetCondition) -> AssetCondition {
    let mut parts = match left {
        AssetCondition::Any(parts) => parts,
        other => vec![other],
    };
    match right {
        AssetCondition::Any(more) => parts.extend(more),
        other => parts.push(other),
    }
    AssetCondition::Any(parts)
}

macro_rules! operators {
    ($($left:ty),+) => {
        $(impl<R: Into<AssetCondition>> BitAnd<R> for $left {
            type Output = AssetCondition;

            fn bitand(self, right: R) -> AssetCondition {
                both(self.into(), right.into())
            }
        }

        impl<R: Into<AssetCondition>> BitOr<R> for $left {
            type Output = AssetCondition;

            fn bitor(self, right: R) -> AssetCondition {
                either(self.into(), right.into())
            }
        })+
    };
}
operators!(Asset, &Asset, AssetAlias, &AssetAlias, AssetCondition, &AssetCondition);
