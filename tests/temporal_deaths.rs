//! How soon work goes on after a death, beside how soon it does where nobody has died, on a real Temporal server.
//!
//! This program is its own worker: with `run` as its first argument it serves [`Retried`] and [`Rest`]. As a test it looks three
//! times; `SHMWORKER_DEATHS=20` has it look so often, at more retry intervals, for the figures in `docs/benchmarks.md`.

mod common;
#[allow(dead_code, reason = "another test uses more of it")]
#[path = "temporal_balance/world.rs"]
mod world;

use common::{Pool, Server};
use libtest_mimic::{Arguments, Trial};
use nix::sys::signal::{Signal, raise};
use serde::{Deserialize, Serialize};
use shmworker::temporal::{
    activity::{Activities, ActivityContext, ActivityError, activity_definitions},
    sample::{self, ACTIVITY_TASK_QUEUE},
    workflow::Workflows,
};
use std::{
    fs,
    path::PathBuf,
    process::{self, ExitCode},
    time::{Duration, SystemTime},
};
use temporalio_common::{RetryPolicy, protos::temporal::api::enums::v1::EventType};
use temporalio_macros::{workflow, workflow_methods};
use temporalio_workflow::{ActivityOptions, SyncWorkflowContext, WorkflowContext, WorkflowContextView, WorkflowResult};
use world::World;

const NAMESPACE: &str = "deaths";
const SECOND: Duration = Duration::from_secs(1);
/// How far ahead the server reads its timers. One that is set within that time waits for the next reading.
const TIMER_SHIFT: &str = "history.timerProcessorMaxTimeShift";

// ---- the user's code ----------------------------------------------------------------------------------------------------

#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
enum End {
    Fails,
    Dies,
}

/// An activity whose first attempt ends badly.
#[derive(Serialize, Deserialize)]
struct Order {
    end: End,
    /// Where it notes when.
    note: PathBuf,
    interval: Duration,
}

struct Acts;

#[activity_definitions]
impl Acts {
    /// Gives the time from the end of the first attempt to the start of the second.
    #[activity(name = "end_once")]
    fn end_once(order: Order) -> Result<Duration, ActivityError> {
        unimplemented!() // only the signature counts
    }
}

fn end_once(context: ActivityContext, order: Order) -> Result<Duration, ActivityError> {
    if context.info().attempt > 1 {
        let ended: SystemTime = serde_json::from_slice(&fs::read(order.note)?)?;
        return Ok(ended.elapsed()?);
    }
    fs::write(order.note, serde_json::to_vec(&SystemTime::now())?)?;
    if order.end == End::Dies {
        raise(Signal::SIGKILL)?;
    }
    Err(anyhow::anyhow!("as it was told").into())
}

#[workflow]
#[derive(Default)]
struct Retried;

#[workflow_methods]
impl Retried {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, order: Order) -> WorkflowResult<Duration> {
        let policy = RetryPolicy::builder().initial_interval(order.interval).build();
        let options = ActivityOptions::with_start_to_close_timeout(60 * SECOND).retry_policy(policy);
        Ok(ctx.execute_activity(Acts::end_once, order, options.task_queue(ACTIVITY_TASK_QUEUE).build()).await?)
    }
}

/// Rests until it is told to end, and gives how long it took until it was.
#[workflow]
#[derive(Default)]
struct Rest {
    took: Option<Duration>,
}

#[workflow_methods]
impl Rest {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<Option<Duration>> {
        ctx.wait_condition(|rest| rest.took.is_some()).await?;
        Ok(ctx.state(|rest| rest.took))
    }

    /// What a replay would say differently comes with the end, after which there is none.
    #[signal]
    fn finish(&mut self, _ctx: &mut SyncWorkflowContext<Self>, told: SystemTime) {
        self.took = Some(told.elapsed().unwrap_or_default());
    }

    #[query]
    fn pid(&self, _ctx: &WorkflowContextView) -> u32 {
        process::id()
    }
}

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|command| command == "run") {
        let workflows = Workflows::new().register::<Retried>().register::<Rest>();
        let activities = Activities::new().register_blocking_as(Acts::end_once, end_once);
        return sample::worker().workflows(workflows).activities(activities).main();
    }
    let mut args = Arguments::from_args();
    args.test_threads.get_or_insert(1);
    let tests: [(&str, fn()); 2] = [
        (
            "a_death_delays_the_next_attempt_no_more_than_a_failure",
            a_death_delays_the_next_attempt_no_more_than_a_failure,
        ),
        ("a_signal_after_a_death_reaches_another_process", a_signal_after_a_death_reaches_another_process),
    ];
    let trials = tests.map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&args, trials.into()).exit_code()
}

// ---- how soon -----------------------------------------------------------------------------------------------------------

/// `None`: no figures are wanted.
fn deaths() -> Option<usize> {
    std::env::var("SHMWORKER_DEATHS").ok().map(|n| n.parse().expect("a number of deaths"))
}

/// Says what was measured, and gives the time in the middle.
fn middle(what: &str, mut times: Vec<Duration>) -> Duration {
    times.sort();
    let [least, middle, most] = [0, times.len() / 2, times.len() - 1].map(|i| times[i]);
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!("{what}: {:.0} to {:.0} ms, median {:.0}, of {}", ms(least), ms(most), ms(middle), times.len());
    middle
}

fn label_of(pool: &Pool, pid: i32) -> String {
    pool.workers.iter().find(|label| pool.pid(label) == pid).expect("one of the pool's").clone()
}

fn a_death_delays_the_next_attempt_no_more_than_a_failure() {
    let rounds = deaths().unwrap_or(3);
    let (shifts, intervals) = match deaths() {
        // Its own default makes the delay of a failure random.
        Some(_) => (&["1s", "1ms"][..], &[SECOND / 10, SECOND, 3 * SECOND][..]),
        None => (&["1ms"][..], &[SECOND][..]),
    };
    for shift in shifts {
        let home = tempfile::tempdir().unwrap();
        let server = Server::start_configured(&[NAMESPACE], &[&format!("{TIMER_SHIFT}={shift:?}")]);
        let world = World::new(&server, NAMESPACE);
        let mut pool = world.pool(1, 2, &[]);
        for &interval in intervals {
            let [failure, death] = [End::Fails, End::Dies].map(|end| {
                let measure = |round| {
                    let id = format!("{end:?}-{interval:?}-{round}");
                    let took =
                        world.start(&id, Retried::run, Order { end, note: home.path().join(&id), interval }).output();
                    took.checked_sub(interval).expect("the interval lies between the attempts")
                };
                let times = (0..rounds).map(measure).collect();
                interval
                    + middle(&format!("timers read {shift} ahead, {interval:?} between attempts, it {end:?}"), times)
            });
            assert!(*shift == "1s" || death < failure * 3 / 2, "after a failure {failure:?}, after a death {death:?}");
        }
        pool.ends();
    }
}

fn a_signal_after_a_death_reaches_another_process() {
    let server = Server::start(&[NAMESPACE]);
    let world = World::new(&server, NAMESPACE);
    let mut pool = world.pool(2, 1, &[]);
    for kills in [false, true] {
        let mut measure = |round| {
            let flow = world.start(&format!("{kills}-{round}"), Rest::run, ());
            let pid = world.runtime.block_on(flow.handle.query(Rest::pid, (), Default::default())).unwrap();
            let label = label_of(&pool, pid.cast_signed());
            if kills {
                pool.signal(&label, Signal::SIGKILL);
            }
            flow.signal(Rest::finish, SystemTime::now());
            let took = flow.output().expect("it was told");
            assert_eq!(flow.count(EventType::WorkflowTaskTimedOut), 0);
            if kills {
                pool.has_died(&label);
            }
            took
        };
        let times = (0..deaths().unwrap_or(3)).map(&mut measure).collect();
        middle(&format!("a signal to a run whose process {}", if kills { "was just killed" } else { "lives" }), times);
    }
    pool.ends();
}
