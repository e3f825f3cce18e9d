//! What the application registers once and tasks borrow: connection pools, clients, configuration.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// The type of a resource that a task needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceNeed {
    id: TypeId,
    name: &'static str,
}

impl ResourceNeed {
    /// The need for a `T`.
    pub fn of<T: Send + Sync + 'static>() -> Self {
        Self { id: TypeId::of::<T>(), name: std::any::type_name::<T>() }
    }

    /// The type, as the compiler prints it.
    pub fn type_name(&self) -> &'static str {
        self.name
    }
}

/// One value for each type. Cheap to clone.
#[derive(Clone, Default)]
pub struct Resources(HashMap<TypeId, (&'static str, Arc<dyn Any + Send + Sync>)>);

impl Resources {
    /// Adds or replaces the value of its type.
    pub fn insert<T: Send + Sync + 'static>(&mut self, value: T) {
        self.0.insert(TypeId::of::<T>(), (std::any::type_name::<T>(), Arc::new(value)));
    }

    /// The value of type `T`.
    pub fn get<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.0.get(&TypeId::of::<T>())?.1.downcast_ref()
    }

    /// The value of type `T`, shared.
    pub fn get_arc<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        Arc::clone(&self.0.get(&TypeId::of::<T>())?.1).downcast().ok()
    }

    /// Whether the need is met.
    pub fn has(&self, need: ResourceNeed) -> bool {
        self.0.contains_key(&need.id)
    }
}

impl fmt::Debug for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<_> = self.0.values().map(|(name, _)| *name).collect();
        names.sort_unstable();
        f.debug_set().entries(names).finish()
    }
}
