//! What a process makes for itself before its first attempt, one value of each type: a connection pool, a model.

use super::ActivityError;
use futures_util::future::{BoxFuture, FutureExt};
use std::{
    any::{Any, TypeId, type_name},
    collections::HashMap,
    fmt,
    sync::Arc,
};

type Value = Arc<dyn Any + Send + Sync>;

/// How a process makes its value of one type.
#[derive(Clone)]
pub(super) struct Init {
    id: TypeId,
    name: &'static str,
    make: Arc<dyn Fn() -> BoxFuture<'static, Result<Value, ActivityError>> + Send + Sync>,
}

impl Init {
    pub(super) fn new<T, F, Fut>(make: F) -> Self
    where
        T: Any + Send + Sync,
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, ActivityError>> + Send + 'static,
    {
        let make = move || {
            let made = make();
            async move { Ok(Arc::new(made.await?) as Value) }.boxed()
        };
        Self { id: TypeId::of::<T>(), name: type_name::<T>(), make: Arc::new(make) }
    }

    pub(super) fn is_of(&self, id: TypeId) -> bool {
        self.id == id
    }
}

/// The values of one process.
#[derive(Clone, Default)]
pub(crate) struct States(HashMap<TypeId, Value>);

impl States {
    /// Makes one after another, in this order.
    ///
    /// # Errors
    /// Which one could not be made, and why.
    pub(super) async fn make(inits: &[Init]) -> Result<States, String> {
        let mut states = States::default();
        for Init { id, name, make } in inits {
            let made = make().await.map_err(|e| format!("cannot make the state of type {name}: {}", Why(&e)))?;
            states.0.insert(*id, made);
        }
        Ok(states)
    }

    pub(super) fn get<T: Any>(&self) -> Option<&T> {
        self.0.get(&TypeId::of::<T>())?.downcast_ref()
    }
}

/// An error with its causes, on one line.
struct Why<'e>(&'e ActivityError);

impl fmt::Display for Why<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ActivityError::Application(failure) = self.0 else { return write!(f, "{:?}", self.0) };
        let mut error: &dyn std::error::Error = failure.source_error();
        write!(f, "{error}")?;
        while let Some(cause) = error.source() {
            write!(f, ": {cause}")?;
            error = cause;
        }
        Ok(())
    }
}
