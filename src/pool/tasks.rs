//! Tasks by name: what a worker can run, and typed tokens to submit it with.
//!
//! A task is known by the hash of its name, which is computed where the token is made; so caller and worker agree on it without
//! a common table, whatever the order in which each registers its own.

use super::{
    codec::{Codec, Wire},
    context::Context,
    output::{Output, Room},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    any::{Any, TypeId, type_name},
    collections::{BTreeMap, HashMap},
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    marker::PhantomData,
    path::PathBuf,
    sync::Arc,
};

/// Why a task of yours failed: a text for whoever waits for it. Any [`std::error::Error`] turns into one by `?`; what isn't one,
/// an `anyhow::Error`, a `Box<dyn Error>` or a text, by [`Failure::new`].
///
/// ```
/// # use shmworker::{Tasks, pool::Failure};
/// # fn lookup(_: u64) -> Result<u64, Box<dyn std::error::Error>> { Ok(1) }
/// let mut tasks = Tasks::new();
/// tasks.handler("parse", |_, text: String| Ok(text.parse::<u64>()?));
/// tasks.handler("look up", |_, n: u64| lookup(n).map_err(|e| Failure::new(e.to_string())));
/// tasks.handler("refuse", |_, n: u64| if n > 3 { Err(Failure::permanent("too many")) } else { Ok(n) });
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub(super) message: String,
    pub(super) is_permanent: bool,
}

impl Failure {
    /// A failure with this message.
    pub fn new(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), is_permanent: false }
    }

    /// A failure that another attempt would meet as well: there is none.
    ///
    /// ```
    /// # use shmworker::pool::Failure;
    /// let mut tasks = shmworker::Tasks::new();
    /// tasks.handler("half", |_, n: u64| if n % 2 == 0 { Ok(n / 2) } else { Err(Failure::permanent("an odd number")) });
    /// ```
    pub fn permanent(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), is_permanent: true }
    }

    fn lasting(error: impl std::error::Error) -> Failure {
        Failure { is_permanent: true, ..error.into() }
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
        Failure::new(message)
    }
}

/// A task that takes an `I` and gives an `O`: what [`Tasks`] return, or [`Task::named`].
pub struct Task<I: Wire, O: Wire> {
    pub(super) kind: u32,
    types: PhantomData<fn(I) -> O>,
}

impl<I: Wire, O: Wire> Task<I, O> {
    /// The task that is registered under this name, for where the token that its registration returned is not at hand: in
    /// another task, or in a program whose workers are started by [`init`](crate::init()). Whether there is one of these types
    /// is checked when it is submitted to.
    ///
    /// ```
    /// use shmworker::pool::Task;
    ///
    /// const SQUARE: Task<u64, u64> = Task::named("square");
    /// # let _ = SQUARE;
    /// ```
    pub const fn named(name: &str) -> Task<I, O> {
        Task { kind: kind_of(name), types: PhantomData }
    }
}

impl<I: Wire, O: Wire> Clone for Task<I, O> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<I: Wire, O: Wire> Copy for Task<I, O> {}

impl<I: Wire, O: Wire> fmt::Debug for Task<I, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Task({:#x}: {} -> {})", self.kind, type_name::<I>(), type_name::<O>())
    }
}

/// Bits of a descriptor's `kind` beside the hash: the payload is a chunk, or JSON.
pub(crate) const CHUNK: u32 = 1 << 31;
pub(crate) const JSON: u32 = 1 << 30;

/// FNV-1a (<http://www.isthe.com/chongo/tech/comp/fnv/>), folded to the bits that are left.
pub(crate) const fn kind_of(name: &str) -> u32 {
    let (bytes, mut hash, mut i) = (name.as_bytes(), 0x811c_9dc5u32, 0);
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u32).wrapping_mul(0x0100_0193);
        i += 1;
    }
    (hash ^ hash >> 30) & (JSON - 1)
}

/// What is known of a task without its code.
#[derive(Clone, Debug)]
pub(super) struct Signature {
    pub(super) name: String,
    types: [(TypeId, &'static str); 2],
}

/// Signatures by kind. In the order of kinds, so that two tables of the same tasks are the same.
pub(super) type Signatures = BTreeMap<u32, Signature>;

/// Why a task can't be submitted to.
///
/// ```no_run
/// # use shmworker::{Pool, Tasks};
/// # let mut tasks = Tasks::new();
/// # let square = tasks.function("square", |x: u64| x * x);
/// # let pool = Pool::builder().fork(tasks)?;
/// use shmworker::pool::Task;
///
/// let refused = pool.submit(Task::<u64, u64>::named("cube"), &3).unwrap_err();
/// println!("{refused}"); // … those that are: square
/// # let _ = square;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnknownTask {
    /// No task has this name.
    #[error("no task named {0:?} is registered; those that are: {1}")]
    Name(String, String),
    /// No task has this token.
    #[error("the task of this token is not registered; those that are: {0}")]
    Token(String),
    /// The one of this name is of other types.
    #[error("the task {name:?} is registered as {is}, and submitted to as {asked}")]
    Types {
        /// Its name.
        name: String,
        /// What it takes and gives.
        is: String,
        /// What the token says.
        asked: String,
    },
}

fn names(signatures: &Signatures) -> String {
    let names: Vec<_> = signatures.values().map(|s| s.name.as_str()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// `None`: the workers are of a program of which nothing is known here. They refuse what they don't know.
pub(super) fn check<I: Wire, O: Wire>(signatures: Option<&Signatures>, task: Task<I, O>) -> Result<(), UnknownTask> {
    let Some(signatures) = signatures else { return Ok(()) };
    let signature = signatures.get(&task.kind).ok_or_else(|| UnknownTask::Token(names(signatures)))?;
    if signature.types.map(|t| t.0) == [TypeId::of::<I>(), TypeId::of::<O>()] {
        return Ok(());
    }
    Err(UnknownTask::Types {
        name: signature.name.clone(),
        is: signature.types.map(|t| t.1).join(" -> "),
        asked: [type_name::<I>(), type_name::<O>()].join(" -> "),
    })
}

/// As [`check`], for any types.
pub(super) fn kind_by_name(signatures: Option<&Signatures>, name: &str) -> Result<u32, UnknownTask> {
    let kind = kind_of(name);
    let Some(signatures) = signatures else { return Ok(kind) };
    match signatures.get(&kind) {
        Some(signature) if signature.name == name => Ok(kind),
        _ => Err(UnknownTask::Name(name.to_owned(), names(signatures))),
    }
}

pub(super) type Handler = Box<dyn Fn(&Context<'_>, &[u8], Codec, &mut Room<'_>) -> Result<(), Failure> + Send + Sync>;
type Init = Box<dyn Fn() -> Result<Box<dyn Any + Send + Sync>, Failure> + Send + Sync>;
type Hook<R> = Box<dyn Fn() -> R + Send + Sync>;

/// The tasks of a program, by name, and what its workers do beside them.
///
/// ```
/// let mut tasks = shmworker::Tasks::new();
/// let square = tasks.function("square", |x: u64| x * x);
/// # let _ = square;
/// ```
#[derive(Default)]
pub struct Tasks {
    pub(super) signatures: Arc<Signatures>,
    handlers: BTreeMap<u32, Handler>,
    inits: HashMap<TypeId, Init>,
    pub(super) on_start: Vec<Hook<Result<(), Failure>>>,
    pub(super) on_exit: Vec<Hook<()>>,
    pub(super) plugins: Vec<PathBuf>,
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.signatures.values().map(|s| &s.name)).finish()
    }
}

impl Tasks {
    /// None yet.
    pub fn new() -> Tasks {
        Tasks::default()
    }

    /// Registers a plain function. Its input is a type that owns what it holds: a `String` rather than a `&str`.
    ///
    /// # Panics
    /// If the name is taken.
    ///
    /// ```
    /// let mut tasks = shmworker::Tasks::new();
    /// let length = tasks.function("length", |text: String| text.len());
    /// # let _ = length;
    /// ```
    pub fn function<I, O>(&mut self, name: &str, function: impl Fn(I) -> O + Send + Sync + 'static) -> Task<I, O>
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
    ///
    /// ```
    /// # use shmworker::pool::Failure;
    /// let mut tasks = shmworker::Tasks::new();
    /// let read = tasks.handler("read", |context, path: String| {
    ///     context.check()?;
    ///     Ok(std::fs::read_to_string(path)?)
    /// });
    /// # let _ = read;
    /// ```
    pub fn handler<I, O>(
        &mut self,
        name: &str,
        handler: impl Fn(&Context<'_>, I) -> Result<O, Failure> + Send + Sync + 'static,
    ) -> Task<I, O>
    where
        I: Serialize + DeserializeOwned + 'static,
        O: Serialize + DeserializeOwned + 'static,
    {
        self.add(name, move |context, input, codec, room| {
            let output = handler(context, I::view(input, codec).map_err(Failure::lasting)?)?;
            room.write::<O>(&output, codec)
        })
    }

    /// Registers a function that reads its input in place and writes its output in place: in the segment, without a copy, where
    /// these are [`Pods`](super::Pods) or [`Bytes`](super::Bytes).
    ///
    /// # Panics
    /// If the name is taken.
    ///
    /// ```
    /// use shmworker::pool::Pods;
    ///
    /// let mut tasks = shmworker::Tasks::new();
    /// let double = tasks.in_place::<Pods<f32>, Pods<f32>>("double", |_, input, mut output| {
    ///     for (out, x) in output.reserve(input.len())?.iter_mut().zip(input) {
    ///         *out = 2.0 * x;
    ///     }
    ///     Ok(())
    /// });
    /// # let _ = double;
    /// ```
    pub fn in_place<I: Wire, O: Wire>(
        &mut self,
        name: &str,
        handler: impl for<'a> Fn(&Context<'_>, I::Arg<'a>, Output<'_, '_, O>) -> Result<(), Failure> + Send + Sync + 'static,
    ) -> Task<I, O> {
        self.add(name, move |context, input, codec, room| {
            handler(context, I::view(input, codec).map_err(Failure::lasting)?, Output::new(room, codec))
        })
    }

    /// Says how a worker makes its own value of type `T`, a connection or a model: once per process, when a task first asks for
    /// it by [`Context::state`]. If that fails the task fails, and the next one tries again. It is dropped when the worker ends
    /// in order.
    ///
    /// # Panics
    /// If one is registered for this type.
    ///
    /// ```
    /// # use std::collections::HashMap;
    /// let mut tasks = shmworker::Tasks::new();
    /// tasks.state(|| Ok(HashMap::from([("one", 1u64)])));
    /// let look_up = tasks.handler("look up", |context, word: String| {
    ///     Ok(context.state::<HashMap<&str, u64>>()?.get(word.as_str()).copied())
    /// });
    /// # let _ = look_up;
    /// ```
    pub fn state<T: Any + Send + Sync>(&mut self, init: impl Fn() -> Result<T, Failure> + Send + Sync + 'static) {
        let init: Init = Box::new(move || Ok(Box::new(init()?)));
        let earlier = self.inits.insert(TypeId::of::<T>(), init);
        assert!(earlier.is_none(), "a state of type {} is registered already", type_name::<T>());
    }

    /// Registers what each worker does before its first task. If it fails the worker ends, and a pool whose workers all do that
    /// ends too.
    ///
    /// ```
    /// let mut tasks = shmworker::Tasks::new();
    /// tasks.on_start(|| Ok(std::env::set_current_dir("/tmp")?));
    /// ```
    pub fn on_start(&mut self, hook: impl Fn() -> Result<(), Failure> + Send + Sync + 'static) {
        self.on_start.push(Box::new(hook));
    }

    /// Registers what each worker does after its last task, if it ends in order.
    ///
    /// ```
    /// let mut tasks = shmworker::Tasks::new();
    /// tasks.on_exit(|| eprintln!("process {} ends", std::process::id()));
    /// ```
    pub fn on_exit(&mut self, hook: impl Fn() + Send + Sync + 'static) {
        self.on_exit.push(Box::new(hook));
    }

    /// Is a task of this name registered, or one that can't be told from it?
    pub(super) fn has(&self, name: &str) -> bool {
        self.signatures.contains_key(&kind_of(name))
    }

    pub(super) fn add<I: Wire, O: Wire>(
        &mut self,
        name: &str,
        handler: impl Fn(&Context<'_>, &[u8], Codec, &mut Room<'_>) -> Result<(), Failure> + Send + Sync + 'static,
    ) -> Task<I, O> {
        let task = Task::named(name);
        let types = [(TypeId::of::<I>(), type_name::<I>()), (TypeId::of::<O>(), type_name::<O>())];
        let signature = Signature { name: name.to_owned(), types };
        if let Some(earlier) = Arc::make_mut(&mut self.signatures).insert(task.kind, signature) {
            assert!(earlier.name == name, "the names {name:?} and {:?} have the same hash: change one", earlier.name);
            panic!("a task named {name:?} is registered already");
        }
        self.handlers.insert(task.kind, Box::new(handler));
        task
    }

    /// Name and types of each.
    pub(super) fn signatures(&self) -> Vec<String> {
        let line = |s: &Signature| format!("{:?}: {} -> {}", s.name, s.types[0].1, s.types[1].1);
        self.signatures.values().map(line).collect()
    }

    /// The same for the same tasks, in all processes of one program.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.signatures().hash(&mut hasher);
        hasher.finish()
    }

    pub(super) fn name_of(&self, kind: u32) -> &str {
        self.signatures.get(&kind).map_or("", |signature| &signature.name)
    }

    pub(super) fn get(&self, kind: u32) -> Option<&Handler> {
        self.handlers.get(&kind)
    }

    pub(super) fn init_of<T: Any>(&self) -> Option<&Init> {
        self.inits.get(&TypeId::of::<T>())
    }

    pub(super) fn states(&self) -> impl Iterator<Item = TypeId> {
        self.inits.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_by_name_is_that_of_the_registration_if_the_types_are() {
        let mut tasks = Tasks::new();
        let square = tasks.function("square", |x: u64| x * x);
        assert_eq!(square.kind, Task::<u64, u64>::named("square").kind);
        let known = Some(&*tasks.signatures);
        assert_eq!(check(known, square), Ok(()));
        let wrong = check(known, Task::<u32, u64>::named("square")).unwrap_err();
        assert_eq!(
            wrong.to_string(),
            "the task \"square\" is registered as u64 -> u64, and submitted to as u32 -> u64"
        );
        let unknown = kind_by_name(known, "cube").unwrap_err();
        assert_eq!(unknown.to_string(), "no task named \"cube\" is registered; those that are: square");
        assert_eq!(check(None, Task::<u32, u64>::named("square")), Ok(()), "its workers are of another program");
        assert_eq!(kind_by_name(None, "square"), Ok(square.kind));
    }

    #[test]
    #[should_panic(expected = "a task named \"a\" is registered already")]
    fn a_name_is_given_once() {
        let mut tasks = Tasks::new();
        tasks.function("a", |x: u64| x);
        tasks.function("a", |x: u64| x);
    }
}
