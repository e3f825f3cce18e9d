//! The state of the tables, and whether a program can work with them.

use std::cmp::Ordering;

use super::{StoreError, StoreResult};

/// What a migration did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migrated {
    /// The version before; 0 if there were no tables.
    pub from: u32,
    /// The version now.
    pub to: u32,
}

/// The state of the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaStatus {
    /// The version of the tables; 0 if there are none.
    pub version: u32,
    /// The version this library needs.
    pub needed: u32,
    /// The oldest version that a program may need to work with these tables: what a newer program has added disturbs no
    /// older one, what it has taken away does.
    pub serves: u32,
    /// Facts about the database for people: version of the server, durability settings.
    pub facts: Vec<(String, String)>,
}

impl SchemaStatus {
    /// Whether this library can work with the tables.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotMigrated`] if they are missing or old, [`StoreError::Newer`] if a newer program has taken away
    /// what this one needs.
    pub fn fits(&self) -> StoreResult<()> {
        let (found, needed) = (self.version, self.needed);
        match found.cmp(&needed) {
            Ordering::Less => Err(StoreError::NotMigrated { found, needed }),
            Ordering::Greater if self.serves > needed => Err(StoreError::Newer { found, known: needed }),
            Ordering::Equal | Ordering::Greater => Ok(()),
        }
    }
}
