//! `shmworker top`: a pool as it works, in a terminal.
//!
//! It looks at the segment, which it maps read-only, and at `/proc`, and draws what it finds: see [`crate::observe`]. The terminal is
//! as it was before whenever this ends: by a key, a signal, a panic, or since the pool has ended.

mod app;
mod view;

use super::{
    args::name,
    exit::{self, CliError},
    say,
};
use crate::{
    observe::{
        find::{Found, find},
        sample::Sample,
    },
    process::Mode,
};
use app::{App, Wish};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyEventKind},
};
use std::{
    env,
    io::{self, IsTerminal},
    sync::atomic::{AtomicI32, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// How soon an end of the pool, or a signal, is noticed.
const LOOK: Duration = Duration::from_millis(100);

/// What `shmworker top` was told.
#[derive(clap::Args)]
pub(crate) struct TopArgs {
    /// Name of a pool, or process id of one of its processes
    #[arg(value_name = "NAME|PID", value_parser = name())]
    what: String,
    /// Seconds between two looks at the pool: 0.1 to 60
    #[arg(long, value_name = "S", default_value = "1", allow_negative_numbers = true, value_parser = interval)]
    interval: Duration,
}

fn interval(typed: &str) -> Result<Duration, String> {
    match typed.parse::<f64>() {
        Ok(s) if (0.1..=60.0).contains(&s) => Ok(Duration::from_secs_f64(s)),
        _ => Err("give seconds from 0.1 to 60".to_owned()),
    }
}

/// How watching a pool came to its end.
enum End {
    Quit,
    Signal(i32),
    Pool,
}

/// Shows a pool until somebody has seen enough, or it ends.
///
/// # Errors
/// There is no terminal, or no such pool; or the pool died, which is no fault of this program's, but is not what was wanted.
pub(crate) fn run(args: &TopArgs) -> Result<(), CliError> {
    let TopArgs { what, interval } = args;
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        let why =
            format_args!("'top' needs a terminal: 'shmworker inspect {what}' prints the same once, with --json too");
        return Err(CliError::new(exit::USAGE, why));
    }
    let failed = |e: io::Error| CliError::new(exit::FAILURE, format_args!("cannot use the terminal: {e}"));
    let found = find(what).map_err(|e| CliError::new(exit::FAILURE, e))?;
    if !found.runs {
        let why = format_args!("the pool of '{what}' does not run: 'shmworker inspect {what}' shows what it has left");
        return Err(CliError::new(exit::FAILURE, why));
    }
    let mut app = App::new(what.clone(), *interval, has_colors(), Sample::of(&found));
    heed_signals().map_err(|e| failed(e.into()))?;
    let mut screen = Screen::enter().map_err(failed)?;
    let end = watch(&found, &mut app, &mut screen);
    drop(screen);
    match end.map_err(failed)? {
        End::Quit => Ok(()),
        End::Signal(signal) => {
            let code = u8::try_from(128 + signal).unwrap_or(exit::FAILURE);
            Err(CliError::new(code, format_args!("ended by signal {signal}")))
        }
        End::Pool if Mode::of(&found.segment.header().control) == Mode::Stopping => {
            say(format_args!("pool '{what}' has ended"));
            Ok(())
        }
        End::Pool => {
            let why = format_args!(
                "pool '{what}' has died: its coordinator (pid {}) ended before its work was done. With a name or a file as \
                 backing 'shmworker inspect' shows what it has left",
                app.sample().pool.coordinator
            );
            Err(CliError::new(exit::FAILURE, why))
        }
    }
}

/// <https://no-color.org>
fn has_colors() -> bool {
    env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn watch(found: &Found, app: &mut App, screen: &mut Screen) -> io::Result<End> {
    let mut due = Instant::now() + app.interval;
    screen.draw(app)?;
    loop {
        let left = due.saturating_duration_since(Instant::now());
        let mut has_news = false;
        if event::poll(left.min(LOOK))? {
            has_news = true;
            match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => match app.key(key) {
                    Wish::Nothing => {}
                    Wish::Look => due = Instant::now(),
                    Wish::Quit => return Ok(End::Quit),
                    Wish::Interrupt => return Ok(End::Signal(Signal::SIGINT as i32)),
                },
                // The size may be what it was before, with a smaller one in between: then nobody but us knows what is missing.
                Event::Resize(..) => screen.clear()?,
                _ => {}
            }
        }
        match SIGNAL.load(Relaxed) {
            0 => {}
            signal => return Ok(End::Signal(signal)),
        }
        if found.coordinator.as_ref().is_some_and(|c| c.is_dead()) {
            return Ok(End::Pool);
        }
        let now = Instant::now();
        if now >= due {
            // Not `due + interval`: after a stop there is nothing to make up for.
            due = now + app.interval;
            if !app.is_paused {
                app.look(Sample::of(found));
                has_news = true;
            }
        }
        if has_news {
            screen.draw(app)?;
        }
    }
}

/// The signal that is to end this process; 0: none came.
static SIGNAL: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(signal: i32) {
    SIGNAL.store(signal, Relaxed);
}

fn heed_signals() -> nix::Result<()> {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        // SAFETY: the handler stores one atomic, which may be done at any moment.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

/// The terminal, which is restored when this is dropped.
struct Screen {
    terminal: Option<DefaultTerminal>,
}

impl Screen {
    fn enter() -> io::Result<Screen> {
        // With a hook that restores it before a panic is told.
        match ratatui::try_init() {
            Ok(terminal) => Ok(Screen { terminal: Some(terminal) }),
            Err(e) => {
                let _ = ratatui::try_restore(); // it may have come half way
                Err(e)
            }
        }
    }

    /// All of it will be drawn anew.
    fn clear(&mut self) -> io::Result<()> {
        self.terminal.as_mut().map_or(Ok(()), |terminal| terminal.clear())
    }

    fn draw(&mut self, app: &App) -> io::Result<()> {
        match &mut self.terminal {
            Some(terminal) => terminal.draw(|frame| view::draw(frame, app)).map(drop),
            None => Ok(()),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Some(mut terminal) = self.terminal.take()
            && terminal.show_cursor().is_err()
        {
            // It has gone: its own destructor would tell that on a stderr which may have gone as well.
            std::mem::forget(terminal);
        }
        let _ = ratatui::try_restore();
    }
}
