//! Tasks by name: what a worker can run, and typed tokens to submit it with.

use super::{
    codec::{CodecError, Wire},
    context::Context,
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    any::type_name,
    collections::HashMap,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    marker::PhantomData,
};

/// Why a task of yours failed: a text for whoever waits for it. Any error turns into one by `?`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    message: String,
}

impl Failure {
    /// A failure with this message.
    pub fn new(message: impl Into<String>) -> Failure {
        Failure { message: message.into() }
    }

    pub(crate) fn into_message(self) -> String {
        self.message
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        Failure { message }
    }
}

/// A registered task: takes an `I`, gives an `O`. Made by [`Tasks`], used to submit.
pub struct Task<I: Wire, O: Wire> {
    pub(crate) index: u32,
    pub(crate) kind: PhantomData<fn(I) -> O>,
}

impl<I: Wire, O: Wire> Clone for Task<I, O> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<I: Wire, O: Wire> Copy for Task<I, O> {}

impl<I: Wire, O: Wire> fmt::Debug for Task<I, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Task({})", self.index)
    }
}

/// Where a handler leaves its output: called once, with the encoded bytes.
pub(crate) type Sink<'a> = &'a mut dyn FnMut(&[u8]);
type Handler = Box<dyn Fn(&Context<'_>, &[u8], Sink<'_>) -> Result<(), Failure>>;

/// The tasks of a program, by name.
///
/// ```
/// let mut tasks = shmworker::Tasks::new();
/// let square = tasks.function("square", |x: u64| x * x);
/// # let _ = square;
/// ```
#[derive(Default)]
pub struct Tasks {
    handlers: Vec<Handler>,
    names: HashMap<String, u32>,
    signatures: Vec<String>,
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names.keys()).finish()
    }
}

impl Tasks {
    /// None yet.
    pub fn new() -> Tasks {
        Tasks::default()
    }

    /// Registers a plain function.
    ///
    /// # Panics
    /// If the name is taken.
    pub fn function<I, O>(&mut self, name: &str, function: impl Fn(I) -> O + 'static) -> Task<I, O>
    where
        I: Serialize + DeserializeOwned + 'static,
        O: Serialize + DeserializeOwned + 'static,
    {
        self.handler(name, move |_, input| Ok(function(input)))
    }

    /// Registers a function that may fail, and sees its [`Context`].
    ///
    /// # Panics
    /// If the name is taken.
    pub fn handler<I, O>(
        &mut self,
        name: &str,
        handler: impl Fn(&Context<'_>, I) -> Result<O, Failure> + 'static,
    ) -> Task<I, O>
    where
        I: Serialize + DeserializeOwned + 'static,
        O: Serialize + DeserializeOwned + 'static,
    {
        self.add(name, move |context, input, sink| {
            let output = handler(context, I::decode(input)?)?;
            O::encode(&output, |bytes| sink(bytes)).map_err(|e: CodecError| e.into())
        })
    }

    fn add<I: Wire, O: Wire>(
        &mut self,
        name: &str,
        handler: impl Fn(&Context<'_>, &[u8], Sink<'_>) -> Result<(), Failure> + 'static,
    ) -> Task<I, O> {
        let index = self.handlers.len() as u32;
        assert!(self.names.insert(name.to_owned(), index).is_none(), "a task named {name:?} is registered already");
        self.handlers.push(Box::new(handler));
        self.signatures.push(format!("{name:?}: {} -> {}", type_name::<I>(), type_name::<O>()));
        Task { index, kind: PhantomData }
    }

    /// Name and types of each, in their order.
    pub(crate) fn signatures(&self) -> &[String] {
        &self.signatures
    }

    /// The same for the same tasks in the same order, in all processes of one program.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.signatures.hash(&mut hasher);
        hasher.finish()
    }

    pub(crate) fn get(&self, index: u32) -> Option<&Handler> {
        self.handlers.get(index as usize)
    }
}
