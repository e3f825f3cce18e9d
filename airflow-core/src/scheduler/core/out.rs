//! Attempts that were handed to an executor and have not reported.

use std::collections::BTreeMap;

use crate::id::{AttemptId, RunPk, TiKey};
use crate::scheduler::routes::{Place, Room, Routes, Taken};

/// One of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub run: RunPk,
    pub key: TiKey,
    pub place: Place,
}

/// All of them, and how much room that leaves.
#[derive(Debug)]
pub(super) struct Out {
    routes: Routes,
    sent: BTreeMap<AttemptId, Sent>,
    /// Attempts of an earlier life of this process that did not stop; they keep their slots.
    strays: BTreeMap<AttemptId, Place>,
    taken: Taken,
}

impl Out {
    pub(super) fn new(routes: Routes) -> Self {
        Self { routes, sent: BTreeMap::new(), strays: BTreeMap::new(), taken: Taken::default() }
    }

    pub(super) fn routes(&self) -> &Routes {
        &self.routes
    }

    pub(super) fn insert(&mut self, id: AttemptId, sent: Sent) {
        if let Some(before) = self.sent.insert(id, sent) {
            self.taken.remove(before.place);
        }
        self.taken.add(sent.place);
    }

    pub(super) fn get(&self, id: AttemptId) -> Option<&Sent> {
        self.sent.get(&id)
    }

    pub(super) fn remove(&mut self, id: AttemptId) -> Option<Sent> {
        let stray = self.strays.remove(&id);
        let sent = self.sent.remove(&id);
        for place in stray.into_iter().chain(sent.map(|sent| sent.place)) {
            self.taken.remove(place);
        }
        sent
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (AttemptId, &Sent)> {
        self.sent.iter().map(|(id, sent)| (*id, sent))
    }

    /// Attempts that run in this process: what it answers for itself.
    pub(super) fn here(&self) -> impl Iterator<Item = (AttemptId, Place)> {
        let sent = self.sent.iter().map(|(id, sent)| (*id, sent.place));
        let here = sent.filter(|(_, place)| !self.routes.is_remote(*place));
        here.chain(self.strays.iter().map(|(id, place)| (*id, *place)))
    }

    /// Attempts of an earlier life that still run.
    pub(super) fn keep_strays(&mut self, strays: Vec<(AttemptId, Place)>) {
        for (id, place) in strays {
            self.taken.add(place);
            self.strays.insert(id, place);
        }
    }

    pub(super) fn room(&self) -> Room {
        self.taken.room(&self.routes)
    }
}
