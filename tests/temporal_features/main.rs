//! Every workflow feature on a real Temporal server, and the events that it leaves in the history.
//!
//! This program is its own worker: with `run` as its first argument it serves the workflows of [`workflows`]. Most tests
//! run in two forms: `cached`, where a run stays in its process between two steps, and `replayed`, where the cache has
//! room for one run and two metronomes fight for it, so that a step begins with a replay, usually in another process.

#[path = "../common/mod.rs"]
mod common;
mod workflows;

use common::{Pool, Server, eventually};
use libtest_mimic::{Arguments, Trial};
use nix::sys::signal::Signal;
use shmworker::temporal::sample::{self, ACTIVITY_TASK_QUEUE};
use std::{
    collections::BTreeMap,
    fs,
    process::{Command, ExitCode},
    sync::{Arc, Mutex},
    time::Duration,
};
use temporalio_client::{
    Client, ClientOptions, ConnectionOptions, UntypedQuery, UntypedUpdate, Url, WorkflowCancelOptions,
    WorkflowExecutionStatus, WorkflowHandle, WorkflowIdConflictPolicy, WorkflowStartOptions, WorkflowTerminateOptions,
    WorkflowUpdateWithStartOptions,
    errors::{WorkflowGetResultError, WorkflowQueryError, WorkflowUpdateError},
};
use temporalio_common::{
    HasWorkflowDefinition, QueryDefinition, SignalDefinition, UntypedWorkflow, UpdateDefinition,
    data_converters::{PayloadConverter, RawValue},
    error::{IncomingError, TimeoutType},
    protos::temporal::api::{
        enums::v1::{EventType, RetryState, WorkflowTaskFailedCause},
        failure::v1::failure::FailureInfo,
        history::v1::{HistoryEvent, WorkflowTaskFailedEventAttributes, history_event::Attributes},
    },
    search_attributes::SearchAttributes,
};
use temporalio_workflow::{MemoValues, workflows::WorkflowImplementation};
use tokio::runtime::{self, Runtime};
use workflows::{
    Account, AtHome, Attributes as AttributesWorkflow, CITY, Cancelled, Changed, Child, Countdown, Dice, FLOOR,
    Failing, Inbox, Locals, Memos, Metronome, Outsider, Parent, Patched, Timers, Version, activities, workflows,
};

const NAMESPACE: &str = "features";
const BUILD_ID: &str = "build-of-the-tests";

type Test = fn(&Scene<'_>);

macro_rules! tests {
    ($($test:ident)*) => { [$((stringify!($test), $test as Test)),*] };
}

/// The attributes of all events of a kind.
macro_rules! all {
    ($events:expr, $kind:ident) => {
        $events
            .iter()
            .filter_map(|event| match &event.attributes {
                Some(Attributes::$kind(attributes)) => Some(attributes),
                _ => None,
            })
            .collect::<Vec<_>>()
    };
}

/// In both forms.
const TESTS: &[(&str, Test)] = &tests![
    timers_fire_and_are_cancelled
    signals_are_handled_in_their_order
    a_signal_starts_a_workflow
    queries_are_answered_while_a_run_is_open_and_after_its_end
    updates_are_validated_handled_and_rejected
    an_update_starts_a_workflow
    a_child_gives_its_result
    a_child_fails_its_parent
    a_child_is_cancelled
    a_child_is_signalled
    a_child_whose_id_is_taken_does_not_start
    a_child_ends_as_its_parent_close_policy_says
    a_run_continues_as_new
    a_workflow_is_cancelled
    a_cancelled_workflow_gives_details
    a_workflow_may_ignore_its_cancellation
    a_cancelled_workflow_cleans_up
    a_scope_is_cancelled_alone
    another_workflow_is_signalled
    another_workflow_is_cancelled
    search_attributes_are_seen_set_and_unset
    a_memo_is_seen_and_changed
    what_is_random_is_the_same_in_each_replay
    workflow_code_sees_its_version
    a_workflow_fails_with_all_that_its_error_says
    a_panic_fails_the_task
    a_forced_failure_fails_the_task
    a_foreign_wake_fails_the_task
    an_unknown_type_fails_the_task
    an_input_that_does_not_decode_fails_the_task
    an_activity_fails_after_its_last_attempt
    an_activity_fails_for_good
    an_activity_is_cancelled
    an_activity_times_out
];

/// Cached only: Core cancels the local activities of a run that it evicts to make room (`managed_run.rs`, `_check_more_activations`),
/// even if the run waits for nothing else, so that workflow code may see that as a cancellation.
const UNDISTURBED: &[(&str, Test)] = &tests![
    a_local_activity_is_retried
    a_local_activity_backs_off_by_a_timer
    a_local_activity_fails_its_workflow
    a_local_activity_is_cancelled
];

/// With pools of their own.
const ALONE: &[(&str, Test)] = &tests![
    a_small_cache_replays
    signals_that_came_before_the_start_are_buffered
    patches_lead_from_release_to_release
    changed_code_fails_the_task_until_the_right_code_is_back
    recorded_histories_replay
];

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|command| matches!(&*command, "run" | "replay")) {
        return sample::worker().workflows(workflows()).activities(activities()).main();
    }
    let mut args = Arguments::from_args();
    args.test_threads.get_or_insert(4);
    // Here, not by the first test that wants it: programs end with the thread that has started them.
    let world = (!args.list).then(|| Arc::new(World::new()));
    let trial = |name: String, queue: &'static str, of: &'static str, test: Test| {
        let world = world.clone();
        Trial::test(name, move || {
            let world = world.as_ref().expect("a list runs no test");
            test(&Scene { world, queue, test: of });
            Ok(())
        })
    };
    let in_form = |queue, tests: &'static [(&'static str, Test)]| {
        tests.iter().map(move |&(name, test)| (format!("{queue}::{name}"), queue, name, test))
    };
    let alone = ALONE.iter().map(|&(name, test)| (name.to_owned(), name, name, test));
    let trials = in_form(CACHED, TESTS)
        .chain(in_form(REPLAYED, TESTS))
        .chain(in_form(CACHED, UNDISTURBED))
        .chain(alone)
        .map(|(n, q, t, f)| trial(n, q, t, f))
        .collect();
    let conclusion = libtest_mimic::run(&args, trials);
    if let Some(world) = world {
        world.end();
    }
    conclusion.exit_code()
}

// ---- what all tests share -----------------------------------------------------------------------------------------------

const CACHED: &str = "cached";
const REPLAYED: &str = "replayed";

/// One server, one client, and a pool for each form.
struct World {
    server: Server,
    runtime: Runtime,
    client: Client,
    pools: Mutex<Vec<Pool>>,
}

impl World {
    fn new() -> World {
        let server = Server::start(&[NAMESPACE]);
        for (key, kind) in [(CITY.name(), "Keyword"), (FLOOR.name(), "Int")] {
            let mut create = Command::new(&server.cli);
            create.args(["operator", "search-attribute", "create", "--name", key, "--type", kind]);
            create.args(["--address", &server.address, "--namespace", NAMESPACE]);
            assert!(create.output().unwrap().status.success(), "{create:?}");
        }
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let connection = ConnectionOptions::new(Url::parse(&format!("http://{}", server.address)).unwrap()).build();
        let client = runtime.block_on(Client::connect(connection, ClientOptions::new(NAMESPACE).build())).unwrap();
        let world = World { server, runtime, client, pools: Mutex::default() };
        let cached = world.pool(CACHED, "", &[]);
        let replayed = world.pool(REPLAYED, "", &["--max-cached-workflows", "1"]);
        world.metronomes(REPLAYED);
        world.pools.lock().unwrap().extend([cached, replayed]);
        world
    }

    /// A pool of this program's workflows on a task queue, as `release` of them.
    fn pool(&self, queue: &str, release: &str, args: &[&str]) -> Pool {
        let mut run = Command::new(std::env::current_exe().unwrap());
        run.env("RELEASE", release).args(["run", "--address", &self.server.address, "--namespace", NAMESPACE]);
        run.args(["--workflow-task-queue", queue, "--activity-task-queue", ACTIVITY_TASK_QUEUE]);
        // On a busy machine it takes its time until the backtrace of a panic has names.
        run.args(["--deadlock-timeout", "60s", "--build-id", BUILD_ID]);
        Pool::start(run, 2, 1, args)
    }

    fn metronomes(&self, queue: &str) {
        for number in 0..2 {
            let options = WorkflowStartOptions::new(queue, format!("{queue}-metronome-{number}")).build();
            self.runtime.block_on(self.client.start_workflow(Metronome::run, (), options)).unwrap();
        }
    }

    fn end(&self) {
        self.pools.lock().unwrap().iter_mut().for_each(|pool| pool.stop(Signal::SIGTERM));
    }
}

/// What one test has: a task queue, and ids of its own.
struct Scene<'w> {
    world: &'w World,
    queue: &'static str,
    test: &'static str,
}

impl<'w> Scene<'w> {
    fn id(&self, what: &str) -> String {
        format!("{}-{}-{what}", self.queue, self.test)
    }

    fn options(&self, what: &str) -> WorkflowStartOptions {
        WorkflowStartOptions::new(self.queue, self.id(what)).build()
    }

    fn start<W: HasWorkflowDefinition>(&self, what: &str, workflow: W, input: W::Input) -> Flow<'w, W>
    where
        W::Input: Send,
    {
        self.start_with(self.options(what), workflow, input)
    }

    fn start_with<W: HasWorkflowDefinition>(
        &self,
        options: WorkflowStartOptions,
        workflow: W,
        input: W::Input,
    ) -> Flow<'w, W>
    where
        W::Input: Send,
    {
        let started = self.world.client.start_workflow(workflow, input, options);
        Flow { world: self.world, handle: self.world.runtime.block_on(started).unwrap() }
    }

    /// A workflow that somebody else has started.
    fn find<W: HasWorkflowDefinition>(&self, id: String) -> Flow<'w, W> {
        Flow { world: self.world, handle: self.world.client.get_workflow_handle::<W>(id) }
    }
}

/// What a handle to a workflow of this type is typed with.
type Run<W> = <W as WorkflowImplementation>::Run;

/// A workflow, and what a test asks of it.
struct Flow<'w, W> {
    world: &'w World,
    handle: WorkflowHandle<Client, W>,
}

impl<W: HasWorkflowDefinition> Flow<'_, W> {
    fn result(&self) -> Result<W::Output, WorkflowGetResultError> {
        self.world.runtime.block_on(self.handle.get_result(Default::default()))
    }

    #[track_caller]
    fn output(&self) -> W::Output {
        self.result().unwrap()
    }

    fn signal<S: SignalDefinition<Workflow = W::Run>>(&self, signal: S, input: S::Input)
    where
        S::Input: Send,
    {
        self.world.runtime.block_on(self.handle.signal(signal, input, Default::default())).unwrap();
    }

    fn query<Q: QueryDefinition<Workflow = W::Run>>(
        &self,
        query: Q,
        input: Q::Input,
    ) -> Result<Q::Output, WorkflowQueryError>
    where
        Q::Input: Send,
    {
        self.world.runtime.block_on(self.handle.query(query, input, Default::default()))
    }

    fn update<U: UpdateDefinition<Workflow = W::Run>>(
        &self,
        update: U,
        input: U::Input,
    ) -> Result<U::Output, WorkflowUpdateError>
    where
        U::Input: Send,
        U::Output: 'static,
    {
        self.world.runtime.block_on(self.handle.execute_update(update, input, Default::default()))
    }

    fn cancel(&self, reason: &str) {
        let options = WorkflowCancelOptions::builder().reason(reason).build();
        self.world.runtime.block_on(self.handle.cancel(options)).unwrap();
    }

    fn terminate(&self) {
        self.world.runtime.block_on(self.handle.terminate(WorkflowTerminateOptions::default())).unwrap();
    }

    fn status(&self) -> WorkflowExecutionStatus {
        self.world.runtime.block_on(self.handle.describe(Default::default())).unwrap().status()
    }

    fn events(&self) -> Vec<HistoryEvent> {
        self.world.runtime.block_on(self.handle.fetch_history(Default::default()).into_events()).unwrap()
    }

    /// Waits until the history has `n` events of a kind.
    #[track_caller]
    fn awaits(&self, n: usize, kind: EventType) -> Vec<HistoryEvent> {
        eventually(format_args!("{n} of {kind:?} in {}", self.handle.info().workflow_id), || {
            Some(self.events()).filter(|events| events.iter().filter(|e| e.event_type() == kind).count() >= n)
        })
    }

    /// The first failure of a workflow task; the workflow is still open then, and is terminated here.
    #[track_caller]
    fn task_failure(&self) -> WorkflowTaskFailedEventAttributes {
        let events = self.awaits(1, EventType::WorkflowTaskFailed);
        assert_eq!(self.status(), WorkflowExecutionStatus::Running);
        self.terminate();
        all!(events, WorkflowTaskFailedEventAttributes)[0].clone()
    }

    /// What happened, but for workflow tasks, and in a history that no task failed in; but for one that was to end the workflow as
    /// something new had just come for it, e.g. the end of a cancelled activity: the server fails that, and has it tried again.
    #[track_caller]
    fn story(&self) -> Vec<EventType> {
        use EventType::{WorkflowTaskCompleted, WorkflowTaskFailed, WorkflowTaskScheduled, WorkflowTaskStarted};
        let events = self.events();
        let failed = all!(events, WorkflowTaskFailedEventAttributes);
        let is_right = failed.iter().all(|failed| failed.cause() == WorkflowTaskFailedCause::UnhandledCommand);
        assert!(is_right, "{events:?}");
        let mut kinds: Vec<_> = events.iter().map(HistoryEvent::event_type).collect();
        let of_tasks = [WorkflowTaskScheduled, WorkflowTaskStarted, WorkflowTaskCompleted, WorkflowTaskFailed];
        kinds.retain(|kind| !of_tasks.contains(kind));
        kinds
    }
}

fn raw(value: &str) -> RawValue {
    RawValue::from_value(&value.to_owned(), &PayloadConverter::default())
}

// ---- timers -------------------------------------------------------------------------------------------------------------

fn timers_fire_and_are_cancelled(scene: &Scene<'_>) {
    let timers = scene.start("", Timers::run, ());
    assert_eq!(timers.output(), ["Fired", "Fired", "Fired", "Fired", "Cancelled", "Cancelled"]);
    use EventType::*;
    // The one that was cancelled before it was sent has left nothing.
    assert_eq!(
        timers.story(),
        [
            WorkflowExecutionStarted,
            TimerStarted,
            TimerFired,
            TimerStarted,
            TimerStarted,
            TimerFired,
            TimerFired,
            TimerStarted,
            TimerStarted,
            TimerFired,
            TimerCanceled,
            WorkflowExecutionCompleted
        ]
    );
}

// ---- signals and queries ------------------------------------------------------------------------------------------------

fn signals_are_handled_in_their_order(scene: &Scene<'_>) {
    let inbox = scene.start("", Inbox::run, 4);
    inbox.signal(Inbox::put_later, "async".into());
    inbox.signal(Inbox::put, "a".into());
    inbox.signal(Inbox::put, "b".into());
    // A query would not do: the server lets it see the timer fired before the task that it belongs to has begun.
    eventually("the first signal is handled", || {
        let kinds: Vec<_> = inbox.events().iter().map(HistoryEvent::event_type).collect();
        let fired = kinds.iter().position(|&kind| kind == EventType::TimerFired)?;
        kinds[fired..].contains(&EventType::WorkflowTaskCompleted).then_some(())
    });
    inbox.signal(Inbox::put, "c".into());
    assert_eq!(inbox.output(), ["a", "b", "async", "c"]);
    assert_eq!(all!(inbox.events(), WorkflowExecutionSignaledEventAttributes).len(), 4);
}

fn a_signal_starts_a_workflow(scene: &Scene<'_>) {
    let Scene { world, .. } = scene;
    let start = |letter: &str| {
        let mut options = scene.options("");
        options.id_conflict_policy = WorkflowIdConflictPolicy::UseExisting;
        let client = &world.client;
        let started = client.signal_with_start_workflow(Inbox::run, 2, Inbox::put, letter.to_owned(), options);
        Flow { world, handle: world.runtime.block_on(started).unwrap() }
    };
    start("first");
    // The second finds it running.
    let inbox = start("second");
    assert_eq!(inbox.output(), ["first", "second"]);
    use EventType::*;
    let signalled = WorkflowExecutionSignaled;
    assert_eq!(inbox.story(), [WorkflowExecutionStarted, signalled, signalled, WorkflowExecutionCompleted]);
}

fn signals_that_came_before_the_start_are_buffered(scene: &Scene<'_>) {
    let inbox = scene.start("", Inbox::run, 4);
    inbox.signal(Inbox::put_later, "async".into());
    for letter in ["a", "b", "c"] {
        inbox.signal(Inbox::put, letter.into());
    }
    let mut pool = scene.world.pool(scene.queue, "", &[]);
    assert_eq!(inbox.output(), ["a", "b", "c", "async"]);
    pool.stop(Signal::SIGTERM);
}

fn queries_are_answered_while_a_run_is_open_and_after_its_end(scene: &Scene<'_>) {
    let inbox = scene.start("", Inbox::run, 2);
    inbox.signal(Inbox::put, "a".into());
    assert_eq!(inbox.query(Inbox::letters, ()).unwrap(), ["a"]);
    assert_eq!(inbox.query(Inbox::letter, 0).unwrap(), "a");
    let error = inbox.query(Inbox::letter, 7).unwrap_err().to_string();
    assert!(error.contains("there is no letter 7"), "{error}");
    let error = inbox.query(UntypedQuery::new("unheard"), raw("")).unwrap_err().to_string();
    assert!(error.contains("unheard"), "{error}");
    inbox.signal(Inbox::put, "b".into());
    assert_eq!(inbox.output(), ["a", "b"]);
    assert_eq!(inbox.query(Inbox::letters, ()).unwrap(), ["a", "b"]);
    // Queries leave nothing in the history.
    assert_eq!(inbox.story().len(), 4);
}

fn a_small_cache_replays(scene: &Scene<'_>) {
    let mut pool = scene.world.pool(scene.queue, "", &["--max-cached-workflows", "1"]);
    let whats = ["a", "b", "c"];
    let inboxes = whats.map(|what| scene.start(what, Inbox::run, 1000));
    let letters = ["0", "1", "2", "3"];
    for (round, letter) in letters.iter().enumerate() {
        for inbox in &inboxes {
            inbox.signal(Inbox::put, (*letter).to_owned());
            // Answered by a run that has no place in the cache any more: two others were there since.
            assert_eq!(inbox.query(Inbox::letters, ()).unwrap(), letters[..=round]);
        }
    }
    for (inbox, what) in inboxes.iter().zip(whats) {
        let line = format!("inbox {} begins", scene.id(what));
        let begun = || pool.program.stdout().iter().filter(|said| said.ends_with(&line)).count();
        eventually("each round but the first has begun with a replay", || (begun() >= letters.len()).then_some(()));
        let events = inbox.events();
        let failed = all!(events, WorkflowTaskFailedEventAttributes);
        assert!(failed.is_empty(), "{failed:?}");
        assert!(all!(events, WorkflowTaskTimedOutEventAttributes).is_empty());
    }
    pool.stop(Signal::SIGTERM);
}

// ---- updates ------------------------------------------------------------------------------------------------------------

#[track_caller]
fn update_failure<T: std::fmt::Debug>(result: Result<T, WorkflowUpdateError>) -> String {
    match result {
        Err(WorkflowUpdateError::Failed(failure)) => failure.message,
        other => panic!("{other:?}"),
    }
}

fn updates_are_validated_handled_and_rejected(scene: &Scene<'_>) {
    let account = scene.start("", Account::run, ());
    assert_eq!(account.update(Account::deposit, 5).unwrap(), 5);
    assert_eq!(account.update(Account::deposit_later, 10).unwrap(), 15);
    assert_eq!(account.update(Account::withdraw, 3).unwrap(), 12);
    assert_eq!(update_failure(account.update(Account::deposit, -1)), "-1 is no deposit");
    let error = update_failure(account.update(UntypedUpdate::new("unheard"), raw("")));
    assert!(error.contains("unheard"), "{error}");
    // Not the validator but the handler: accepted, then completed with a failure.
    assert_eq!(update_failure(account.update(Account::withdraw, 13)), "12 is less than 13");
    account.signal(Account::close, ());
    assert_eq!(account.output(), 12);
    use EventType::*;
    // Rejected updates leave nothing.
    assert_eq!(
        account.story(),
        [
            WorkflowExecutionStarted,
            WorkflowExecutionUpdateAccepted,
            WorkflowExecutionUpdateCompleted,
            WorkflowExecutionUpdateAccepted,
            TimerStarted,
            TimerFired,
            ActivityTaskScheduled,
            ActivityTaskStarted,
            ActivityTaskCompleted,
            WorkflowExecutionUpdateCompleted,
            WorkflowExecutionUpdateAccepted,
            WorkflowExecutionUpdateCompleted,
            WorkflowExecutionUpdateAccepted,
            WorkflowExecutionUpdateCompleted,
            WorkflowExecutionSignaled,
            WorkflowExecutionCompleted
        ]
    );
}

fn an_update_starts_a_workflow(scene: &Scene<'_>) {
    let Scene { world, queue, .. } = scene;
    let deposit = || {
        let policy = WorkflowIdConflictPolicy::UseExisting;
        let options = WorkflowUpdateWithStartOptions::new(*queue, scene.id(""), policy).build();
        let update = world.client.execute_update_with_start_workflow(Account::run, (), Account::deposit, 5, options);
        world.runtime.block_on(update).unwrap()
    };
    assert_eq!([deposit(), deposit()], [5, 10]);
    let account = scene.find::<Run<Account>>(scene.id(""));
    account.signal(Account::close, ());
    assert_eq!(account.output(), 10);
}

// ---- children -----------------------------------------------------------------------------------------------------------

fn a_child_gives_its_result(scene: &Scene<'_>) {
    let parent = scene.start("", Parent::run, "result".into());
    assert_eq!(parent.output(), "42");
    use EventType::*;
    assert_eq!(
        parent.story(),
        [
            WorkflowExecutionStarted,
            StartChildWorkflowExecutionInitiated,
            ChildWorkflowExecutionStarted,
            ChildWorkflowExecutionCompleted,
            WorkflowExecutionCompleted
        ]
    );
}

fn a_child_fails_its_parent(scene: &Scene<'_>) {
    let parent = scene.start("", Parent::run, "failure".into());
    let Err(WorkflowGetResultError::Failed(error)) = parent.result() else { panic!("it fails") };
    let IncomingError::ChildWorkflowExecution(child) = &*error else { panic!("{error:?}") };
    let Some(IncomingError::Application(refusal)) = child.cause() else { panic!("{child:?}") };
    assert_eq!(refusal.to_string(), "the child refuses");
    assert_eq!(refusal.type_name(), Some("Refusal"));
    assert_eq!(refusal.details::<String>().unwrap().as_deref(), Some("the child refuses"));
    assert_eq!(all!(parent.events(), ChildWorkflowExecutionFailedEventAttributes).len(), 1);
    assert_eq!(parent.story().last(), Some(&EventType::WorkflowExecutionFailed));
}

fn a_child_is_cancelled(scene: &Scene<'_>) {
    let parent = scene.start("", Parent::run, "cancel".into());
    assert_eq!(parent.output(), "cancelled");
    use EventType::*;
    let story = parent.story();
    for kind in [RequestCancelExternalWorkflowExecutionInitiated, ChildWorkflowExecutionCanceled] {
        assert!(story.contains(&kind), "{story:?}");
    }
    let child = scene.find::<Run<Child>>(scene.id("-child"));
    assert_eq!(child.status(), WorkflowExecutionStatus::Canceled);
}

fn a_child_is_signalled(scene: &Scene<'_>) {
    let parent = scene.start("", Parent::run, "signal".into());
    assert_eq!(parent.output(), "a b");
    let signals = all!(parent.events(), SignalExternalWorkflowExecutionInitiatedEventAttributes).len();
    assert_eq!((signals, all!(parent.events(), ExternalWorkflowExecutionSignaledEventAttributes).len()), (2, 2));
}

fn a_child_whose_id_is_taken_does_not_start(scene: &Scene<'_>) {
    let other = scene.start("-child", Child::run, "wait".into());
    let parent = scene.start("", Parent::run, "taken".into());
    assert_eq!(parent.output(), "WorkflowAlreadyExists");
    assert!(parent.story().contains(&EventType::StartChildWorkflowExecutionFailed));
    other.signal(Child::go, ());
    assert_eq!(other.output(), "went");
}

fn a_child_ends_as_its_parent_close_policy_says(scene: &Scene<'_>) {
    for plan in ["abandon", "terminate", "request_cancel"] {
        let parent = scene.start(plan, Parent::run, plan.into());
        assert_eq!(parent.output(), "left");
        let child = scene.find::<Run<Child>>(scene.id(&format!("{plan}-child")));
        match plan {
            "abandon" => {
                child.signal(Child::go, ());
                assert_eq!(child.output(), "went");
            }
            "terminate" => assert!(matches!(child.result(), Err(WorkflowGetResultError::Terminated { .. }))),
            _ => assert!(matches!(child.result(), Err(WorkflowGetResultError::Cancelled { .. }))),
        }
    }
}

// ---- continue-as-new ----------------------------------------------------------------------------------------------------

fn a_run_continues_as_new(scene: &Scene<'_>) {
    let countdown = scene.start("", Countdown::run, (3, Vec::new()));
    let mut runs = countdown.output();
    assert_eq!(runs.len(), 4);
    assert_eq!(runs[0], countdown.handle.run_id().unwrap());
    let events = countdown.events();
    let next = all!(events, WorkflowExecutionContinuedAsNewEventAttributes);
    assert_eq!(next[0].new_execution_run_id, runs[1]);
    runs.sort();
    runs.dedup();
    assert_eq!(runs.len(), 4);
}

// ---- cancellation -------------------------------------------------------------------------------------------------------

/// A workflow that has begun to do what it does until it is cancelled.
fn cancelled<'w>(scene: &Scene<'w>, plan: &str, begun: EventType) -> Flow<'w, Run<Cancelled>> {
    let workflow = scene.start("", Cancelled::run, plan.into());
    workflow.awaits(1, begun);
    workflow.cancel("enough");
    workflow
}

fn a_workflow_is_cancelled(scene: &Scene<'_>) {
    let workflow = cancelled(scene, "obeys", EventType::WorkflowTaskCompleted);
    assert!(matches!(workflow.result(), Err(WorkflowGetResultError::Cancelled { .. })));
    use EventType::*;
    let story = [WorkflowExecutionStarted, WorkflowExecutionCancelRequested, WorkflowExecutionCanceled];
    assert_eq!(workflow.story(), story);
}

fn a_cancelled_workflow_gives_details(scene: &Scene<'_>) {
    let workflow = cancelled(scene, "details", EventType::WorkflowTaskCompleted);
    let Err(WorkflowGetResultError::Cancelled { details }) = workflow.result() else { panic!("it is cancelled") };
    assert_eq!(details.deserialize::<Option<String>>().unwrap().as_deref(), Some("enough"));
}

fn a_workflow_may_ignore_its_cancellation(scene: &Scene<'_>) {
    let workflow = cancelled(scene, "ignores", EventType::TimerStarted);
    assert_eq!(workflow.output(), "Cancelled");
    use EventType::*;
    assert_eq!(
        workflow.story(),
        [
            WorkflowExecutionStarted,
            TimerStarted,
            WorkflowExecutionCancelRequested,
            TimerCanceled,
            WorkflowExecutionCompleted
        ]
    );
}

fn a_cancelled_workflow_cleans_up(scene: &Scene<'_>) {
    let workflow = cancelled(scene, "cleans_up", EventType::ActivityTaskScheduled);
    assert_eq!(workflow.output(), "cleaned up at attempt 1");
    let story = workflow.story();
    assert!(story.contains(&EventType::ActivityTaskCancelRequested), "{story:?}");
    assert!(story.contains(&EventType::ActivityTaskCompleted), "{story:?}");
}

fn a_scope_is_cancelled_alone(scene: &Scene<'_>) {
    let workflow = scene.start("", Cancelled::run, "scope".into());
    assert_eq!(workflow.output(), "Cancelled enough Fired false");
}

// ---- code that changes --------------------------------------------------------------------------------------------------

fn patches_lead_from_release_to_release(scene: &Scene<'_>) {
    let Scene { world, queue, .. } = scene;
    let start = |release: &str, timers| {
        let mut pool = world.pool(queue, release, &[]);
        let workflow = scene.start(release, Patched::run, ());
        workflow.awaits(timers, EventType::TimerFired);
        pool.stop(Signal::SIGTERM);
        workflow
    };
    // Each release finishes, by a replay, what the one before it began.
    let finish = |release: &str, workflow: &Flow<'_, Run<Patched>>, result: &str| {
        let mut pool = world.pool(queue, release, &[]);
        workflow.signal(Patched::go, ());
        assert_eq!(workflow.output(), result, "{release}");
        assert!(!workflow.story().contains(&EventType::WorkflowTaskFailed));
        pool.stop(Signal::SIGTERM);
    };
    let markers = |workflow: &Flow<'_, Run<Patched>>| {
        all!(workflow.events(), MarkerRecordedEventAttributes).iter().map(|m| m.marker_name.clone()).collect::<Vec<_>>()
    };
    let old = start("", 1);
    assert_eq!(markers(&old), [""; 0]);
    finish("patched", &old, "one");
    let patched = start("patched", 2);
    assert_eq!(markers(&patched), ["core_patch"]);
    finish("deprecated", &patched, "two");
    let deprecated = start("deprecated", 2);
    assert_eq!(markers(&deprecated), ["core_patch"]);
    finish("new", &deprecated, "two");
}

fn changed_code_fails_the_task_until_the_right_code_is_back(scene: &Scene<'_>) {
    let Scene { world, queue, .. } = scene;
    let mut right = world.pool(queue, "", &[]);
    let workflow = scene.start("", Changed::run, ());
    workflow.awaits(1, EventType::TimerFired);
    right.stop(Signal::SIGTERM);

    let mut wrong = world.pool(queue, "changed", &[]);
    workflow.signal(Changed::go, ());
    let events = workflow.awaits(1, EventType::WorkflowTaskFailed);
    let failed = all!(events, WorkflowTaskFailedEventAttributes)[0];
    assert_eq!(failed.cause(), WorkflowTaskFailedCause::NonDeterministicError);
    let message = &failed.failure.as_ref().unwrap().message;
    assert!(message.contains("TMPRL1100"), "{message}");
    assert_eq!(workflow.status(), WorkflowExecutionStatus::Running);
    wrong.stop(Signal::SIGTERM);

    let mut right = world.pool(queue, "", &[]);
    assert_eq!(workflow.output(), "done");
    right.stop(Signal::SIGTERM);
}

/// What leaves something in a history, from the history alone.
fn recorded_histories_replay(scene: &Scene<'_>) {
    let Scene { world, queue, .. } = scene;
    let mut pool = world.pool(queue, "", &[]);
    let account = scene.start("account", Account::run, ());
    account.update(Account::deposit_later, 1).unwrap();
    account.update(Account::withdraw, 2).unwrap_err();
    account.signal(Account::close, ());
    let changed = scene.start("changed", Changed::run, ());
    changed.signal(Changed::go, ());
    changed.output();
    account.output();
    scene.start("attributes", AttributesWorkflow::run, ()).output();
    scene.start("child", Parent::run, "signal".into()).output();
    scene.start("dice", Dice::run, ()).output();
    scene.start("failure", Parent::run, "failure".into()).result().unwrap_err();
    scene.start("local", Locals::run, "backs_off".into()).output();
    assert!(scene.start("home", AtHome::run, (*queue).to_owned()).output());
    scene.start("memo", Memos::run, ()).output();
    scene.start("timers", Timers::run, ()).output();
    pool.stop(Signal::SIGTERM);

    let whats = ["account", "attributes", "changed", "child", "dice", "failure", "home", "local", "memo", "timers"];
    let dir = tempfile::tempdir().unwrap();
    for what in whats {
        let mut show = Command::new(&world.server.cli);
        show.args(["workflow", "show", "--workflow-id", &scene.id(what), "--output", "json"]);
        show.args(["--address", &world.server.address, "--namespace", NAMESPACE]);
        fs::write(dir.path().join(format!("{what}.json")), show.output().unwrap().stdout).unwrap();
    }
    let replayed = |release| {
        let mut replay = Command::new(std::env::current_exe().unwrap());
        let output = replay.env("RELEASE", release).arg("replay").arg(dir.path()).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let verdicts: Vec<_> = said.lines().map(|line| line.split_once(".json: ").unwrap().1.to_owned()).collect();
        (output.status.code(), whats.into_iter().map(str::to_owned).zip(verdicts).collect::<BTreeMap<_, _>>())
    };
    let ok = |verdicts: &BTreeMap<String, String>| verdicts.values().filter(|verdict| *verdict == "ok").count();
    let (code, verdicts) = replayed("");
    assert_eq!((code, ok(&verdicts)), (Some(0), whats.len()), "{verdicts:#?}");
    let (code, verdicts) = replayed("changed");
    assert_eq!((code, ok(&verdicts)), (Some(1), whats.len() - 1), "{verdicts:#?}");
    assert!(verdicts["changed"].starts_with("non-deterministic: [TMPRL1100]"), "{verdicts:#?}");
    let (code, verdicts) = replayed("aborts");
    assert_eq!((code, ok(&verdicts)), (Some(1), whats.len() - 1), "{verdicts:#?}");
    assert_eq!(verdicts["changed"], "failed: the workflow process died: signal 6 (SIGABRT)");
}

// ---- local activities ---------------------------------------------------------------------------------------------------

fn local<'w>(scene: &Scene<'w>, plan: &str) -> Flow<'w, Run<Locals>> {
    scene.start("", Locals::run, plan.into())
}

fn a_local_activity_is_retried(scene: &Scene<'_>) {
    let workflow = local(scene, "retries");
    assert_eq!(workflow.output(), "attempt 3");
    use EventType::*;
    // One marker for all attempts, and nothing else.
    assert_eq!(workflow.story(), [WorkflowExecutionStarted, MarkerRecorded, WorkflowExecutionCompleted]);
    assert_eq!(all!(workflow.events(), MarkerRecordedEventAttributes)[0].marker_name, "core_local_activity");
}

fn a_local_activity_backs_off_by_a_timer(scene: &Scene<'_>) {
    let workflow = local(scene, "backs_off");
    assert_eq!(workflow.output(), "attempt 2");
    use EventType::*;
    assert_eq!(
        workflow.story(),
        [
            WorkflowExecutionStarted,
            MarkerRecorded,
            TimerStarted,
            TimerFired,
            MarkerRecorded,
            WorkflowExecutionCompleted
        ]
    );
}

fn a_local_activity_fails_its_workflow(scene: &Scene<'_>) {
    let workflow = local(scene, "fails");
    let Err(WorkflowGetResultError::Failed(error)) = workflow.result() else { panic!("it fails") };
    // Nothing around it says that it was an activity: no server has seen one.
    let IncomingError::Application(failure) = &*error else { panic!("{error:?}") };
    assert_eq!(failure.to_string(), "attempt 2 fails");
    assert_eq!(workflow.story().last(), Some(&EventType::WorkflowExecutionFailed));
}

fn a_local_activity_is_cancelled(scene: &Scene<'_>) {
    let mut options = scene.options("");
    // The timer after which it is cancelled starts with the task's first heartbeat, at 0.8 of this.
    options.task_timeout = Some(Duration::from_secs(1));
    let workflow = scene.start_with(options, Locals::run, "cancel".into());
    assert_eq!(workflow.output(), "cancelled");
    assert_eq!(workflow.story().iter().filter(|&&kind| kind == EventType::MarkerRecorded).count(), 1);
}

// ---- other workflows ----------------------------------------------------------------------------------------------------

fn another_workflow_is_signalled(scene: &Scene<'_>) {
    let inbox = scene.start("inbox", Inbox::run, 1);
    let workflow = scene.start("", Outsider::run, ("signal".into(), scene.id("inbox")));
    assert_eq!(workflow.output(), "signalled");
    assert_eq!(inbox.output(), ["from outside"]);
    assert!(workflow.story().contains(&EventType::ExternalWorkflowExecutionSignaled));
    let nobody = scene.start("nobody", Outsider::run, ("signal".into(), scene.id("unheard")));
    assert_eq!(nobody.output(), "not found");
    assert!(nobody.story().contains(&EventType::SignalExternalWorkflowExecutionFailed));
}

fn another_workflow_is_cancelled(scene: &Scene<'_>) {
    let other = scene.start("other", Child::run, "wait".into());
    let workflow = scene.start("", Outsider::run, ("cancel".into(), scene.id("other")));
    assert_eq!(workflow.output(), "cancelled");
    assert!(matches!(other.result(), Err(WorkflowGetResultError::Cancelled { .. })));
    assert!(workflow.story().contains(&EventType::ExternalWorkflowExecutionCancelRequested));
    let nobody = scene.start("nobody", Outsider::run, ("cancel".into(), scene.id("unheard")));
    assert_eq!(nobody.output(), "not found");
    assert!(nobody.story().contains(&EventType::RequestCancelExternalWorkflowExecutionFailed));
}

// ---- attributes, memo, side data ----------------------------------------------------------------------------------------

fn search_attributes_are_seen_set_and_unset(scene: &Scene<'_>) {
    let mut options = scene.options("");
    options.search_attributes = Some(SearchAttributes::new([CITY.value_set("Lyon".into())]));
    let workflow = scene.start_with(options, AttributesWorkflow::run, ());
    let seen = workflow.output();
    assert_eq!(seen, ["Some(\"Lyon\") None", "Some(\"Turin\") Some(3)", "Some(\"Turin\") None"]);
    assert_eq!(all!(workflow.events(), UpsertWorkflowSearchAttributesEventAttributes).len(), 2);
    let described = workflow.world.runtime.block_on(workflow.handle.describe(Default::default())).unwrap();
    let attributes = described.search_attributes();
    assert_eq!((attributes.get(&CITY).as_deref(), attributes.get(&FLOOR)), (Some("Turin"), None));
}

fn a_memo_is_seen_and_changed(scene: &Scene<'_>) {
    let mut memo = MemoValues::new();
    memo.insert("first", "once".to_owned());
    let mut options = scene.options("");
    options.memo = Some(memo);
    let workflow = scene.start_with(options, Memos::run, ());
    assert_eq!(workflow.output(), ["first=once", "mood=fine", "mood=fine"]);
    assert_eq!(all!(workflow.events(), WorkflowPropertiesModifiedEventAttributes).len(), 1);
    let described = workflow.world.runtime.block_on(workflow.handle.describe(Default::default())).unwrap();
    assert_eq!(described.memo().get::<String>("mood").unwrap().as_deref(), Some("fine"));
}

fn what_is_random_is_the_same_in_each_replay(scene: &Scene<'_>) {
    let dice = scene.start("", Dice::run, ());
    let mut seen = dice.output();
    // From the history alone, in the form that has evicted the run.
    assert_eq!(dice.query(Dice::seen, ()).unwrap(), seen);
    seen.dedup();
    assert_eq!(seen.len(), 3);
    let other = scene.start("other", Dice::run, ());
    assert_ne!(other.output()[0], seen[0]);
}

fn workflow_code_sees_its_version(scene: &Scene<'_>) {
    let version = scene.start("", Version::run, ()).output();
    let build_id = format!("build_id: {BUILD_ID:?}");
    assert!(version.contains(&build_id), "{version}");
}

// ---- failures -----------------------------------------------------------------------------------------------------------

fn failing<'w>(scene: &Scene<'w>, plan: &str) -> Flow<'w, Run<Failing>> {
    scene.start(plan, Failing::run, plan.into())
}

fn a_workflow_fails_with_all_that_its_error_says(scene: &Scene<'_>) {
    let workflow = failing(scene, "application");
    let Err(WorkflowGetResultError::Failed(error)) = workflow.result() else { panic!("it fails") };
    let IncomingError::Application(refusal) = &*error else { panic!("{error:?}") };
    assert_eq!(refusal.to_string(), "the workflow refuses");
    assert_eq!(refusal.details::<String>().unwrap().as_deref(), Some("the workflow refuses"));
    let events = workflow.events();
    let failed = all!(events, WorkflowExecutionFailedEventAttributes)[0];
    let Some(FailureInfo::ApplicationFailureInfo(info)) = failed.failure.as_ref().unwrap().failure_info.as_ref() else {
        panic!("{failed:?}")
    };
    assert_eq!((&*info.r#type, info.non_retryable), ("Refusal", true));
}

#[track_caller]
fn fails_its_task(workflow: &Flow<'_, impl HasWorkflowDefinition>, cause: WorkflowTaskFailedCause, message: &str) {
    let failed = workflow.task_failure();
    assert_eq!(failed.cause(), cause);
    let said = &failed.failure.as_ref().unwrap().message;
    assert!(said.contains(message), "{said}");
}

fn a_panic_fails_the_task(scene: &Scene<'_>) {
    let cause = WorkflowTaskFailedCause::WorkflowWorkerUnhandledFailure;
    fails_its_task(&failing(scene, "panic"), cause, "on purpose");
}

fn a_forced_failure_fails_the_task(scene: &Scene<'_>) {
    let cause = WorkflowTaskFailedCause::WorkflowWorkerUnhandledFailure;
    fails_its_task(&failing(scene, "forced"), cause, "as the code asked for");
}

fn a_foreign_wake_fails_the_task(scene: &Scene<'_>) {
    fails_its_task(&failing(scene, "foreign_wake"), WorkflowTaskFailedCause::NonDeterministicError, "[TMPRL1100]");
}

fn an_unknown_type_fails_the_task(scene: &Scene<'_>) {
    let workflow = scene.start("", UntypedWorkflow::new("Unheard"), raw(""));
    let cause = WorkflowTaskFailedCause::WorkflowWorkerUnhandledFailure;
    fails_its_task(&workflow, cause, "workflow type \"Unheard\" is not registered");
}

fn an_input_that_does_not_decode_fails_the_task(scene: &Scene<'_>) {
    let workflow = scene.start("", UntypedWorkflow::new("Inbox"), raw("a word"));
    let cause = WorkflowTaskFailedCause::WorkflowWorkerUnhandledFailure;
    fails_its_task(&workflow, cause, "the input of workflow type \"Inbox\" doesn't decode");
}

/// The failure of an activity that has failed its workflow.
#[track_caller]
fn activity_failure(workflow: &Flow<'_, Run<Failing>>) -> (IncomingError, RetryState) {
    let Err(WorkflowGetResultError::Failed(error)) = workflow.result() else { panic!("it fails") };
    let IncomingError::Activity(activity) = *error else { panic!("{error:?}") };
    let events = workflow.events();
    let failed = all!(events, ActivityTaskFailedEventAttributes).first().map(|a| a.retry_state());
    let timed_out = all!(events, ActivityTaskTimedOutEventAttributes).first().map(|a| a.retry_state());
    let state = failed.or(timed_out).unwrap_or(RetryState::Unspecified);
    (activity.into_parts().1.unwrap(), state)
}

fn an_activity_fails_after_its_last_attempt(scene: &Scene<'_>) {
    let workflow = failing(scene, "activity_exhausted");
    let (error, state) = activity_failure(&workflow);
    assert_eq!((error.to_string(), state), ("attempt 2 fails".to_owned(), RetryState::MaximumAttemptsReached));
    let events = workflow.events();
    assert_eq!(all!(events, ActivityTaskStartedEventAttributes)[0].attempt, 2);
}

fn an_activity_fails_for_good(scene: &Scene<'_>) {
    let (error, state) = activity_failure(&failing(scene, "activity_refused"));
    let IncomingError::Application(refusal) = &error else { panic!("{error:?}") };
    assert_eq!((refusal.type_name(), state), (Some("Refusal"), RetryState::NonRetryableFailure));
    assert_eq!(refusal.details::<String>().unwrap().as_deref(), Some("the activity refuses"));
}

fn an_activity_is_cancelled(scene: &Scene<'_>) {
    let workflow = failing(scene, "activity_cancelled");
    let result = workflow.result();
    let Err(WorkflowGetResultError::Failed(error)) = &result else { panic!("{result:?}") };
    assert!(error.as_cancelled().is_some(), "{error:?}");
    let story = workflow.story();
    assert!(story.contains(&EventType::ActivityTaskCancelRequested), "{story:?}");
}

fn an_activity_times_out(scene: &Scene<'_>) {
    let plans = [
        ("start_to_close", TimeoutType::StartToClose),
        ("schedule_to_start", TimeoutType::ScheduleToStart),
        ("schedule_to_close", TimeoutType::ScheduleToClose),
        ("heartbeat", TimeoutType::Heartbeat),
    ];
    let workflows = plans.map(|(plan, kind)| (plan, kind, failing(scene, plan)));
    for (plan, kind, workflow) in &workflows {
        let (error, _) = activity_failure(workflow);
        let IncomingError::Timeout(timeout) = &error else { panic!("{plan}: {error:?}") };
        assert_eq!(timeout.timeout_type(), *kind, "{plan}");
        assert_eq!(all!(workflow.events(), ActivityTaskTimedOutEventAttributes).len(), 1);
    }
}
