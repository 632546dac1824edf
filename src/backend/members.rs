//! The members of a backend by id.

use super::{Error, MemberId, Result};
use std::collections::BTreeMap;

/// Members by id. Ids are never reused.
pub struct Members<T> {
    all: BTreeMap<MemberId, T>,
    next: u32,
}

impl<T> Default for Members<T> {
    fn default() -> Self {
        Members {
            all: BTreeMap::new(),
            next: 0,
        }
    }
}

impl<T> Members<T> {
    pub fn add(&mut self, member: T) -> MemberId {
        let id = MemberId(self.next);
        self.next += 1;
        self.all.insert(id, member);
        id
    }

    pub fn remove(&mut self, id: MemberId) -> Option<T> {
        self.all.remove(&id)
    }

    /// # Errors
    /// Returns an error if there is no member `id`.
    pub fn get(&mut self, id: MemberId) -> Result<&mut T> {
        self.all.get_mut(&id).ok_or_else(|| missing(id))
    }

    /// Several members at once, in the order of `ids`.
    ///
    /// # Errors
    /// Returns an error if there is no such member or one is named twice.
    pub fn get_all(&mut self, ids: impl Iterator<Item = MemberId>) -> Result<Vec<&mut T>> {
        let mut left: BTreeMap<_, _> = self.all.iter_mut().map(|(id, m)| (*id, Some(m))).collect();
        ids.map(|id| match left.get_mut(&id) {
            None => Err(missing(id)),
            Some(member) => member
                .take()
                .ok_or_else(|| Error::Batch(format!("network number {} is named twice", id.0))),
        })
        .collect()
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.all.values()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.all.values_mut()
    }
}

fn missing(id: MemberId) -> Error {
    Error::Batch(format!("there is no network number {}", id.0))
}
