//! Tasks of former lives of a pool that lies in a file.

use super::{
    Submitter,
    client::Client,
    codec::{Bytes, Wire},
    handle::Handle,
    tasks::{JSON, Task},
};
use crate::{TaskId, lockfree::descriptor::OF_NAME};
use std::{collections::HashMap, fmt, sync::Arc};

/// A task that a program of the same name had submitted before this one: [`Pool::adopted`](super::Pool::adopted),
/// [`Attached::adopted`](super::Attached::adopted). Dropped, its result is not wanted.
pub struct Adopted {
    handle: Handle<Bytes>,
    kind: u32,
    name: String,
    key: Option<String>,
}

impl fmt::Debug for Adopted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adopted").field("name", &self.name).field("key", &self.key).finish_non_exhaustive()
    }
}

impl Adopted {
    pub(super) fn all(pool: &Submitter) -> Vec<Adopted> {
        let client = pool.client();
        let names = pool.names();
        client
            .adopted()
            .unwrap_or_default()
            .into_iter()
            .filter_map(|ticket| Adopted::of(client, &names, ticket))
            .collect()
    }

    fn of(client: &Arc<Client>, names: &HashMap<u32, String>, (tag, task): (usize, TaskId)) -> Option<Adopted> {
        let kind = client.endpoint().kind_of(task)?;
        let name = names.get(&(kind & OF_NAME)).cloned().unwrap_or_default();
        let key = client.endpoint().key_of(task);
        Some(Adopted { handle: Handle::new(client.clone(), (tag, task)), kind, name, key })
    }

    /// The first of them that nobody has been given.
    pub(super) fn next(pool: &Submitter) -> Option<Adopted> {
        let client = pool.client();
        let (tag, task) = client.next_adopted().ok()??;
        let of = Adopted::of(client, &pool.names(), (tag, task));
        if of.is_none() {
            client.forget(tag);
        }
        of
    }

    /// What the task is called; empty if this program has no such task, or, where it has [attached](super::Attached), if the pool does not
    /// tell.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The [key](super::TaskOptions::key) that it was submitted with.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// A copy of the bytes of its input, as the task has it. `None`: the pool belongs to another process.
    pub fn input(&self) -> Option<Vec<u8>> {
        self.handle.input()
    }

    /// To wait for it, if it is a task of this name and these types.
    ///
    /// # Errors
    /// Itself: it is another task.
    pub fn into_handle<I: Wire, O: Wire>(self, task: Task<I, O>) -> Result<Handle<O>, Adopted> {
        if self.kind != task.kind { Err(self) } else { Ok(self.handle.of_type()) }
    }

    /// To wait for it, whatever it is: the result is bytes, or JSON where it was submitted as such.
    pub fn into_bytes(self) -> Handle<Bytes> {
        self.handle
    }

    /// Was it submitted [in JSON](Submitter::submit_json)?
    pub fn is_json(&self) -> bool {
        self.kind & JSON != 0
    }
}

impl std::error::Error for Adopted {}

impl fmt::Display for Adopted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the task that was found is another one, '{}'", self.name)
    }
}
