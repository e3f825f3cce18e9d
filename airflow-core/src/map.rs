//! Maps and sets with a hash that is fast rather than safe from keys that somebody chose in order to slow it down: for keys that
//! the program itself makes, such as the ids of its tasks. Their order is random.

pub(crate) use foldhash::fast::RandomState;

/// As that of the standard library.
pub(crate) type HashMap<K, V> = std::collections::HashMap<K, V, RandomState>;

/// As that of the standard library.
pub(crate) type HashSet<K> = std::collections::HashSet<K, RandomState>;
