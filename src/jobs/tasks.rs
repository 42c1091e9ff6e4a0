//! The tasks that are always there.

use super::exec;
use crate::pool::{Context, Failure, Tasks};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::{
    fmt::Write,
    fs::File,
    io::Read,
    path::PathBuf,
    time::{Duration, Instant},
};

/// How often a sleeper looks whether it is to end.
const LOOK: Duration = Duration::from_millis(20);

/// Registers `exec`, `sha256`, `sleep` and `echo`, whose arguments and results are JSON:
///
/// | task | arguments | result |
/// |---|---|---|
/// | `exec` | `["gzip","-k","a"]` or `{"program":"…","args":["…"],"stdin":"…","env":{"…":"…"},"cwd":"…"}` | `{"exit_code":0,"stdout":"…","stderr":"…"}` |
/// | `sha256` | a text, or `{"file":"…"}` | the sum, in hexadecimal digits |
/// | `sleep` | seconds, or `"250ms"` | `null` |
/// | `echo` | anything | the same |
///
/// # Panics
/// If one of the names is taken.
///
/// ```
/// let mut tasks = shmworker::Tasks::new();
/// shmworker::jobs::builtin(&mut tasks);
/// ```
pub fn builtin(tasks: &mut Tasks) {
    tasks.handler(exec::NAME, exec::exec);
    tasks.handler("sha256", sha256);
    tasks.handler("sleep", sleep);
    tasks.handler("echo", |_, args: Box<RawValue>| Ok(args));
}

#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum Hashed {
    Text(String),
    File { file: PathBuf },
}

fn sha256(context: &Context<'_>, what: Hashed) -> Result<String, Failure> {
    let sum = match what {
        Hashed::Text(text) => Sha256::digest(text),
        Hashed::File { file } => {
            let name = file.display();
            let unread = |e| Failure::new(format!("cannot read {name}: {e}"));
            let (mut sum, mut piece) = (Sha256::new(), vec![0; 256 << 10]);
            let mut open = File::open(&file).map_err(unread)?;
            loop {
                context.check()?;
                match open.read(&mut piece).map_err(unread)? {
                    0 => break sum.finalize(),
                    n => sum.update(&piece[..n]),
                }
            }
        }
    };
    let mut text = String::with_capacity(64);
    for byte in sum {
        let _ = write!(text, "{byte:02x}"); // a `String` takes all
    }
    Ok(text)
}

#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum Time {
    Seconds(f64),
    Text(#[serde(with = "humantime_serde")] Duration),
}

fn sleep(context: &Context<'_>, time: Time) -> Result<(), Failure> {
    let time = match time {
        Time::Text(time) => time,
        Time::Seconds(s) => Duration::try_from_secs_f64(s).map_err(|e| Failure::permanent(format!("{s} s: {e}")))?,
    };
    let began = Instant::now();
    while let Some(left) = time.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) {
        context.check()?;
        let left = left.min(LOOK).min(context.time_left().unwrap_or(LOOK));
        std::thread::sleep(left.max(Duration::from_micros(100)).min(LOOK));
    }
    Ok(())
}
