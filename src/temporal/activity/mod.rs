//! Activities: what users write, and the host that runs their attempts inside an activity process.
//!
//! Declare an activity once with [`activity_definitions`], let workflows call the declaration, and register a handler
//! under it: name, input and output are then one fact, checked by the compiler.
//!
//! ```
//! use shmworker::temporal::activity::{Activities, ActivityContext, ActivityError, activity_definitions};
//!
//! pub struct Greetings;
//!
//! #[activity_definitions]
//! impl Greetings {
//!     #[activity(name = "greet")]
//!     pub fn greet(name: String) -> Result<String, ActivityError> {
//!         unimplemented!()
//!     }
//!     #[activity(name = "count_primes")]
//!     pub fn count_primes(below: u32) -> Result<usize, ActivityError> {
//!         unimplemented!()
//!     }
//! }
//!
//! async fn greet(_context: ActivityContext, name: String) -> Result<String, ActivityError> {
//!     Ok(format!("hello {name}"))
//! }
//!
//! fn count_primes(context: ActivityContext, below: u32) -> Result<usize, ActivityError> {
//!     let mut primes = Vec::new();
//!     for candidate in 2..below {
//!         if primes.iter().all(|prime| candidate % prime != 0) {
//!             primes.push(candidate);
//!         }
//!         if context.is_cancelled() {
//!             return Err(ActivityError::cancelled());
//!         }
//!     }
//!     Ok(primes.len())
//! }
//!
//! let activities = Activities::new()
//!     .register_as(Greetings::greet, greet) // awaits: shares one thread with the other async attempts
//!     .register_blocking_as(Greetings::count_primes, count_primes); // computes: gets a thread of its own
//! assert_eq!(activities.names().collect::<Vec<_>>(), ["count_primes", "greet"]);
//! ```
//!
//! # Errors
//!
//! Any error type goes out through `?` as a failure that Temporal retries by the activity's policy. To say more (a type
//! name, details, no further attempt) return an [`ApplicationFailure`], through `?` as well. A panic fails the attempt,
//! retryable, with the panic's message; the process and the other attempts go on.
//!
//! # Cancellation
//!
//! Cancellation is asked for: the handler sees it in its [`ActivityContext`] and ends with [`ActivityError::cancelled`], or
//! finishes all the same. The server mentions a cancellation only in its answer to a heartbeat, so an activity that never
//! heartbeats hears of none from its workflow; [`RegisterOptions::auto_heartbeat`] does it for the handler. What does not end is
//! killed only if you say so: [`RegisterOptions::kill_after`].
//!
//! That the worker is about to end is another matter, of which a handler hears before it is cancelled for that:
//! [`ActivityContext::is_worker_shutdown`].
//!
//! # Checkpoints
//!
//! The details of the newest heartbeat are what the next attempt finds in [`ActivityContext::last_heartbeat`], whether the
//! attempt before it failed, was cancelled, or died in the middle of an instruction. A long activity records after each step
//! how far it has come, and begins there.
//!
//! # State
//!
//! [`Activities::state`] and [`Activities::state_async`] make one value for each process before its first attempt: a connection
//! pool, a model, a table. Handlers get at it by [`ActivityContext::state`].
//!
//! # Completion from outside
//!
//! A handler that returns [`ActivityError::WillCompleteAsync`] leaves the activity open. Whoever has its
//! [`task_token`](ActivityContext::task_token) completes it later, by a client of `temporalio_client`, anywhere; timeouts go
//! on, the heartbeat timeout too.
//!
//! ```no_run
//! use shmworker::temporal::{
//!     activity::{ActivityContext, ActivityError, TaskToken},
//!     connect::{ConnectFlags, Server},
//! };
//! use temporalio_client::{ActivityIdentifier, Client, ClientOptions, RpcOptions};
//!
//! // In the worker.
//! async fn approve(context: ActivityContext, order: String) -> Result<bool, ActivityError> {
//!     let token = serde_json::to_string(&context.task_token())?;
//!     std::fs::write(format!("inbox/{order}"), token)?;
//!     Err(ActivityError::WillCompleteAsync)
//! }
//!
//! // In the program of those who decide.
//! async fn decide(order: &str, verdict: bool) -> anyhow::Result<()> {
//!     let token: TaskToken = serde_json::from_slice(&std::fs::read(format!("inbox/{order}"))?)?;
//!     let server = Server::resolve(&ConnectFlags::default())?;
//!     let client = Client::new(server.connect("back office").await?, ClientOptions::new(server.namespace()).build())?;
//!     let activity = client.get_async_activity_handle(ActivityIdentifier::from_task_token(token));
//!     Ok(activity.complete(Some(verdict), RpcOptions::default()).await?)
//! }
//! ```

mod context;
mod convert;
mod exec;
mod heartbeat;
mod host;
mod interceptor;
mod link;
mod plugin;
mod process;
mod registry;
mod state;

pub use context::{ActivityContext, ActivityInfo};
pub(super) use convert::cancelled;
pub use exec::{ExecInput, ExecOutput, exec};
use host::ActivityHost;
pub use interceptor::{ActivityInterceptor, ExecuteActivityInput, ExecuteActivityNext, ExecuteActivityOutput};
pub(super) use process::activity_process;
pub use registry::{Activities, RegisterOptions};
#[doc(no_inline)]
pub use temporalio_common::{
    ActivityDefinition, ActivityError, Priority, RetryPolicy,
    data_converters::{TemporalDeserializable, TemporalSerializable},
    error::{ApplicationErrorCategory, ApplicationFailure},
    protos::{TaskToken, coresdk::activity_task::ActivityCancelReason, temporal::api::common::v1::Payload},
};
#[doc(no_inline)]
pub use temporalio_macros::activity_definitions;
