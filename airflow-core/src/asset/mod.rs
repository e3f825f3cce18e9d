//! Data that tasks make and dags wait for, named by a URI.
//!
//! An [`Asset`] is only a name: nothing here looks at the data. A task that lists it among its `outlets` says with its
//! success that the data is new, which is an *event*; a dag with a schedule of assets runs when its
//! [`AssetCondition`] holds over the events since its last such run.
//!
//! ```
//! use airflow_core::asset::Asset;
//! use airflow_core::dag::{DagDef, TaskExt};
//! use airflow_core::operator::Empty;
//!
//! let orders = Asset::new("s3://lake/orders");
//! let rates = Asset::new("s3://lake/rates").group("finance");
//! let producer = DagDef::new("load").schedule("@hourly").define(|d| {
//!     d.add(Empty::new().id("load").outlets([&orders]));
//! });
//! let consumer = DagDef::new("report").schedule(&orders & &rates).define(|d| {
//!     d.add(Empty::new().id("report"));
//! });
//! assert_eq!(consumer.compile()?.timetable.summary(), "Asset");
//! # producer.compile()?;
//! # Ok::<(), airflow_core::compile::DefinitionErrors>(())
//! ```

mod condition;
mod event;
mod feed;
mod uri;
mod watch;

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::hash::Hash;

pub use condition::AssetCondition;
pub(crate) use event::interval_of;
pub use event::{AssetEvent, AssetEventFilter, AssetEventId, EventSource, OutletEvent};
pub use feed::{AssetFeed, FeedFull, MAX_FEED, Pushed};
pub use uri::AssetError;
pub use watch::{
    AssetWatcher, MAX_WATCHED_BYTES, MAX_WATCHER_CHARS, NamedWatcher, Seen, WatchContext, WatcherKey,
};

/// The group of assets that name none.
pub const DEFAULT_GROUP: &str = "asset";

/// The longest name, URI or group, in characters.
pub const MAX_ASSET_CHARS: usize = 1500;

/// What tells one asset, or one alias, from all others: made of its name and URI.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AssetKey(String);

impl AssetKey {
    fn of(kind: &str, name: &str, uri: &str) -> Self {
        let mut hash = Hash::default();
        [kind, name, uri].into_iter().for_each(|text| hash.add(text));
        Self(hash.hex(32))
    }

    /// As text: 32 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for AssetKey {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// Some data, by its URI. Cheap to make; two with the same name and URI are the same asset.
///
/// ```
/// use airflow_core::asset::Asset;
///
/// let orders = Asset::new("S3://lake/orders/");
/// assert_eq!(orders.uri(), "s3://lake/orders");
/// assert_eq!(orders.name(), "s3://lake/orders");
/// assert_eq!(orders, Asset::new("s3://lake/orders"));
///
/// let error = Asset::new("airflow://orders").check().unwrap_err();
/// assert_eq!(error.to_string(), "asset `airflow://orders`: the scheme `airflow` is reserved; use another one");
/// ```
#[derive(Debug, Clone)]
pub struct Asset {
    name: Option<String>,
    uri: String,
    group: String,
    extra: Value,
    watchers: Vec<NamedWatcher>,
    wrong: Option<AssetError>,
}

impl Asset {
    /// The asset at `uri`, which is also its name. The scheme is written in lower case; a fragment, a password and
    /// slashes at the end are dropped, and the parameters of a query are sorted. A text without a scheme stays as it is.
    pub fn new(uri: impl Into<String>) -> Self {
        let given = uri.into();
        let (uri, wrong) = match uri::sanitized(&given) {
            Ok(uri) => (uri, None),
            Err(error) => (given, Some(error)),
        };
        let (group, watchers) = (DEFAULT_GROUP.to_owned(), Vec::new());
        Self { name: None, uri, group, extra: Value::Null, watchers, wrong }
    }

    /// A name for people and for look-ups, instead of the URI.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        let name = name.into();
        if let Err(error) = uri::checked_word("name", &name) {
            self.wrong.get_or_insert(error);
        }
        self.name = Some(name);
        self
    }

    /// The group it is listed in. Default `asset`.
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = group.into();
        if let Err(error) = uri::checked_word("group", &self.group) {
            self.wrong.get_or_insert(error);
        }
        self
    }

    /// Facts about it, a JSON object: owner, format, ….
    #[must_use]
    pub fn extra(mut self, extra: impl Into<Value>) -> Self {
        self.extra = extra.into();
        if !self.extra.is_object() {
            self.wrong.get_or_insert(AssetError::NoObject(self.extra.to_string()));
        }
        self
    }

    /// Something outside that says when it is new, by a name that no other watcher of this asset has. It is enough that
    /// one dag names the asset with its watchers; two that name the same watcher mean one. See [`AssetWatcher`].
    ///
    /// ```
    /// use airflow_core::asset::Asset;
    /// use airflow_core::builtin::FileWatcher;
    ///
    /// let orders = Asset::new("file:///in/orders.csv").watcher("file", FileWatcher::new("/in/orders.csv"));
    /// assert_eq!(orders.watchers()[0].name(), "file");
    /// ```
    #[must_use]
    pub fn watcher(mut self, name: impl Into<String>, watcher: impl AssetWatcher) -> Self {
        let name = name.into();
        let named = |other: &NamedWatcher| other.name() == name;
        if let Err(error) = uri::checked_watcher(&name, self.watchers.iter().any(named)) {
            self.wrong.get_or_insert(error);
        }
        self.watchers.push(NamedWatcher::new(name, watcher));
        self
    }

    /// All of `conditions`: the same as `a & b & c`.
    pub fn all<C: Into<AssetCondition>>(conditions: impl IntoIterator<Item = C>) -> AssetCondition {
        AssetCondition::All(conditions.into_iter().map(Into::into).collect())
    }

    /// Any of `conditions`: the same as `a | b | c`.
    pub fn any<C: Into<AssetCondition>>(conditions: impl IntoIterator<Item = C>) -> AssetCondition {
        AssetCondition::Any(conditions.into_iter().map(Into::into).collect())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.uri)
    }

    /// Its URI.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Its group.
    pub fn group_name(&self) -> &str {
        &self.group
    }

    /// The facts about it; null if there are none.
    pub fn facts(&self) -> &Value {
        &self.extra
    }

    /// What watches for it outside.
    pub fn watchers(&self) -> &[NamedWatcher] {
        &self.watchers
    }

    /// What tells it from all others.
    pub fn key(&self) -> AssetKey {
        AssetKey::of("asset", self.name(), &self.uri)
    }

    /// Whether somebody who says `text` means this asset: its name or its URI, written in any way.
    pub fn is_called(&self, text: &str) -> bool {
        self.name() == text || self.uri == text || uri::sanitized(text).is_ok_and(|uri| uri == self.uri)
    }

    /// Whether it can be used.
    ///
    /// # Errors
    ///
    /// [`AssetError`] says what is wrong with its name, URI, group or facts. Compiling a dag reports it too.
    pub fn check(&self) -> Result<(), AssetError> {
        self.wrong.clone().map_or(Ok(()), Err)
    }
}

impl PartialEq for Asset {
    fn eq(&self, other: &Self) -> bool {
        (self.name(), &self.uri) == (other.name(), &other.uri)
    }
}

impl Eq for Asset {}

impl fmt::Display for Asset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<&str> for Asset {
    fn from(uri: &str) -> Self {
        Self::new(uri)
    }
}

impl From<String> for Asset {
    fn from(uri: String) -> Self {
        Self::new(uri)
    }
}

impl From<&Self> for Asset {
    fn from(asset: &Self) -> Self {
        asset.clone()
    }
}

/// A name for assets that a task chooses while it runs: it lists the alias among its outlets and says in its code which
/// assets it has made, with [`TaskContext::alias_event`]. A dag may wait for the alias.
///
/// [`TaskContext::alias_event`]: crate::operator::TaskContext::alias_event
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssetAlias {
    name: String,
    group: String,
    wrong: Option<AssetError>,
}

impl AssetAlias {
    /// The alias of this name.
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        let wrong = uri::checked_word("name", &name).err();
        Self { name, group: DEFAULT_GROUP.to_owned(), wrong }
    }

    /// The group it is listed in. Default `asset`.
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = group.into();
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its group.
    pub fn group_name(&self) -> &str {
        &self.group
    }

    /// What tells it from all others, and from all assets.
    pub fn key(&self) -> AssetKey {
        AssetKey::of("alias", &self.name, "")
    }
}

impl From<&Self> for AssetAlias {
    fn from(alias: &Self) -> Self {
        alias.clone()
    }
}

impl From<&str> for AssetAlias {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

/// What a task may list among its inlets and outlets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AssetRef {
    /// An asset.
    Asset(Asset),
    /// A name for assets that are known only while the task runs.
    Alias(AssetAlias),
}

impl AssetRef {
    /// What tells it from all others.
    pub fn key(&self) -> AssetKey {
        match self {
            Self::Asset(asset) => asset.key(),
            Self::Alias(alias) => alias.key(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Asset(asset) => asset.name(),
            Self::Alias(alias) => alias.name(),
        }
    }

    /// The asset, if it is one.
    pub fn asset(&self) -> Option<&Asset> {
        match self {
            Self::Asset(asset) => Some(asset),
            Self::Alias(_) => None,
        }
    }

    /// Whether it can be used.
    ///
    /// # Errors
    ///
    /// As [`Asset::check`].
    pub fn check(&self) -> Result<(), AssetError> {
        let wrong = match self {
            Self::Asset(asset) => &asset.wrong,
            Self::Alias(alias) => &alias.wrong,
        };
        wrong.clone().map_or(Ok(()), Err)
    }
}

macro_rules! asset_refs {
    ($($from:ty => $variant:ident),+) => {
        $(impl From<$from> for AssetRef {
            fn from(one: $from) -> Self {
                Self::$variant(one.into())
            }
        }

        impl From<$from> for AssetCondition {
            fn from(one: $from) -> Self {
                Self::Ref(one.into())
            }
        }

        impl IntoAssetRefs for $from {
            fn into_refs(self) -> Vec<AssetRef> {
                vec![self.into()]
            }
        })+
    };
}
asset_refs!(
    Asset => Asset,
    &Asset => Asset,
    &str => Asset,
    String => Asset,
    AssetAlias => Alias,
    &AssetAlias => Alias
);

/// An asset as it is written in a file of options: its URI, or an object with `uri`, `name`, `group` and `extra`, or one
/// with `alias` and `group`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Uri(String),
    Asset(WrittenAsset),
    Alias(WrittenAlias),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenAsset {
    uri: String,
    name: Option<String>,
    group: Option<String>,
    extra: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenAlias {
    alias: String,
    group: Option<String>,
}

impl<'de> Deserialize<'de> for AssetRef {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(match Written::deserialize(from)? {
            Written::Uri(uri) => Asset::new(uri).into(),
            Written::Asset(asset) => {
                let mut made = Asset::new(asset.uri);
                made.name = asset.name;
                made.group = asset.group.unwrap_or(made.group);
                if let Some(extra) = asset.extra {
                    made = made.extra(extra);
                }
                made.into()
            }
            Written::Alias(alias) => {
                let made = AssetAlias::new(alias.alias);
                match alias.group {
                    Some(group) => made.group(group).into(),
                    None => made.into(),
                }
            }
        })
    }
}

/// Assets and aliases, as options take them: one, or a list of them.
pub trait IntoAssetRefs {
    /// As a list.
    fn into_refs(self) -> Vec<AssetRef>;
}

impl<T: Into<AssetRef>> IntoAssetRefs for Vec<T> {
    fn into_refs(self) -> Vec<AssetRef> {
        self.into_iter().map(Into::into).collect()
    }
}

impl<T: Into<AssetRef>, const N: usize> IntoAssetRefs for [T; N] {
    fn into_refs(self) -> Vec<AssetRef> {
        self.into_iter().map(Into::into).collect()
    }
}
