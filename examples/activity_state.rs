//! What a process makes once, for all its attempts: here a pool of connections to a service.
//!
//! In three terminals:
//!
//! ```text
//! cargo run --example activity_state -- service
//! cargo run --example activity_state -- run -w 1 -a 2
//! cargo run --example activity_state -- starter -n 1 --workflow Capitals --input '["France", "Ghana", "Peru"]'
//! ```
//!
//! Each of the two activity processes has up to 4 connections, however many attempts it runs. Without the service none of them
//! starts: the worker says why, tries again, and gives up after the fifth time.

use deadpool::managed::{self, Metrics, RecycleError};
use shmworker::temporal::{
    Worker,
    activity::{Activities, ActivityContext, ActivityError, activity_definitions},
    workflow::Workflows,
};
use std::{
    env,
    io::{self, BufRead, Write},
    net::TcpListener,
    process::ExitCode,
    thread,
    time::Duration,
};
use temporalio_macros::{workflow, workflow_methods};
use temporalio_workflow::{ActivityOptions, WorkflowContext, WorkflowResult, workflows::join_all};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

/// Where the service listens, unless the variable ATLAS says so.
const ADDRESS: &str = "127.0.0.1:7979";

fn address() -> String {
    env::var("ATLAS").unwrap_or_else(|_| ADDRESS.to_owned())
}

// ---- the state ----------------------------------------------------------------------------------------------------------

type Pool = managed::Pool<Atlas>;

/// How connections are made, and made sure of before they are used again.
struct Atlas {
    address: String,
}

struct Connection(BufReader<TcpStream>);

impl Connection {
    async fn ask(&mut self, question: &str) -> io::Result<String> {
        self.0.write_all(format!("{question}\n").as_bytes()).await?;
        let mut answer = String::new();
        match self.0.read_line(&mut answer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(answer.trim_end().to_owned()),
        }
    }
}

impl managed::Manager for Atlas {
    type Type = Connection;
    type Error = io::Error;

    async fn create(&self) -> io::Result<Connection> {
        Ok(Connection(BufReader::new(TcpStream::connect(&self.address).await?)))
    }

    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> managed::RecycleResult<io::Error> {
        connection.ask("").await.map(drop).map_err(RecycleError::Backend)
    }
}

/// Once in each activity process, before its first attempt.
async fn connect() -> Result<Pool, ActivityError> {
    let pool = Pool::builder(Atlas { address: address() }).max_size(4).build()?;
    // Better now than in the first attempt: a process that reaches nobody takes nothing.
    let first = pool.get().await;
    first.map_err(|e| anyhow::anyhow!("cannot reach the atlas at {}: {e}", address())).map(drop)?;
    Ok(pool)
}

// ---- the activity and the workflow --------------------------------------------------------------------------------------

struct Lookup;

#[activity_definitions]
impl Lookup {
    #[activity(name = "capital")]
    fn capital(country: String) -> Result<String, ActivityError> {
        unimplemented!() // only the signature counts; what runs is below
    }
}

async fn capital(context: ActivityContext, country: String) -> Result<String, ActivityError> {
    let mut connection = context.state::<Pool>()?.get().await?;
    Ok(connection.ask(&country).await?)
}

#[workflow]
#[derive(Default)]
struct Capitals;

#[workflow_methods]
impl Capitals {
    #[run]
    async fn run(ctx: &mut WorkflowContext<Self>, countries: Vec<String>) -> WorkflowResult<Vec<String>> {
        let look_up = |country| {
            let options = ActivityOptions::with_start_to_close_timeout(Duration::from_secs(10));
            ctx.execute_activity(Lookup::capital, country, options.build())
        };
        let answers = join_all(countries.into_iter().map(look_up)).await;
        Ok(answers.into_iter().collect::<Result<_, _>>()?)
    }
}

fn main() -> ExitCode {
    if env::args().nth(1).as_deref() == Some("service") {
        return serve();
    }
    let workflows = Workflows::new().register::<Capitals>();
    let activities = Activities::new().state_async(connect).register_as(Lookup::capital, capital);
    Worker::new("atlas").workflows(workflows).activities(activities).main()
}

// ---- the service --------------------------------------------------------------------------------------------------------

/// Answers each line with a line.
fn serve() -> ExitCode {
    let listener = match TcpListener::bind(address()) {
        Ok(listener) => listener,
        Err(e) => {
            eprintln!("cannot listen on {}: {e}: name another address in ATLAS", address());
            return ExitCode::FAILURE;
        }
    };
    println!("serving {}", address());
    for connection in listener.incoming().flatten() {
        println!("somebody has connected");
        thread::spawn(move || {
            let mut answers = connection.try_clone()?;
            for question in io::BufReader::new(connection).lines() {
                let answer = match question?.as_str() {
                    "" => "", // is anybody there?
                    "France" => "Paris",
                    "Ghana" => "Accra",
                    "Peru" => "Lima",
                    _ => "terra incognita",
                };
                writeln!(answers, "{answer}")?;
            }
            io::Result::Ok(())
        });
    }
    ExitCode::SUCCESS
}
