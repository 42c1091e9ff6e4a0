//! What is on the screen, and what a key changes of it.

use crate::observe::{
    rates::Rates,
    sample::{Participant, Sample},
};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use std::{cmp::Ordering, time::Duration};

/// Milliseconds between two looks, through which `+` and `-` go.
const INTERVALS: [u64; 9] = [100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000];
/// Lines that a page key goes.
const PAGE: usize = 10;

/// By what the processes are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Id,
    Label,
    Tasks,
    Cpu,
    Memory,
    Running,
}

impl Sort {
    const ALL: [Sort; 6] = [Sort::Id, Sort::Label, Sort::Tasks, Sort::Cpu, Sort::Memory, Sort::Running];

    pub(super) fn name(self) -> &'static str {
        match self {
            Sort::Id => "id",
            Sort::Label => "label",
            Sort::Tasks => "tasks/s",
            Sort::Cpu => "CPU",
            Sort::Memory => "memory",
            Sort::Running => "time of the task",
        }
    }

    fn next(self) -> Sort {
        let at = Sort::ALL.iter().position(|&sort| sort == self).unwrap_or(0);
        Sort::ALL[(at + 1) % Sort::ALL.len()]
    }
}

/// What a key asks for beside a change of what is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Nothing,
    /// A new sample, now.
    Look,
    Quit,
    Interrupt,
}

/// All that is shown.
pub(super) struct App {
    pub(super) title: String,
    pub(super) interval: Duration,
    pub(super) has_colors: bool,
    pub(super) is_paused: bool,
    pub(super) shows_help: bool,
    pub(super) sort: Sort,
    /// Processes that are above the first one shown.
    pub(super) above: usize,
    sample: Sample,
    pub(super) rates: Rates,
}

impl App {
    pub(super) fn new(title: String, interval: Duration, has_colors: bool, sample: Sample) -> App {
        App {
            title,
            interval,
            has_colors,
            is_paused: false,
            shows_help: false,
            sort: Sort::Id,
            above: 0,
            sample,
            rates: Rates::default(),
        }
    }

    pub(super) fn sample(&self) -> &Sample {
        &self.sample
    }

    /// Shows a newer sample.
    pub(super) fn look(&mut self, sample: Sample) {
        self.rates = Rates::between(&self.sample, &sample);
        self.sample = sample;
    }

    pub(super) fn key(&mut self, key: KeyEvent) -> Wish {
        let last = self.sample.participants.iter().filter(|p| p.is_live()).count().saturating_sub(1);
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Wish::Interrupt,
            // Any key but those that end it takes the help away.
            KeyCode::Char('q') => return Wish::Quit,
            _ if self.shows_help => self.shows_help = false,
            KeyCode::Char('h' | '?') | KeyCode::F(1) => self.shows_help = true,
            KeyCode::Esc => return Wish::Quit,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('p' | ' ') => {
                self.is_paused = !self.is_paused;
                if !self.is_paused {
                    return Wish::Look;
                }
            }
            KeyCode::Char('+' | '=') => {
                self.interval = intervals().find(|&i| i > self.interval).unwrap_or(self.interval);
            }
            KeyCode::Char('-') => {
                self.interval = intervals().rev().find(|&i| i < self.interval).unwrap_or(self.interval);
                return Wish::Look;
            }
            KeyCode::Up => self.above = self.above.saturating_sub(1),
            KeyCode::Down => self.above = (self.above + 1).min(last),
            KeyCode::PageUp => self.above = self.above.saturating_sub(PAGE),
            KeyCode::PageDown => self.above = (self.above + PAGE).min(last),
            KeyCode::Home => self.above = 0,
            KeyCode::End => self.above = last,
            _ => {}
        }
        Wish::Nothing
    }

    /// Those who live, in the order that was asked for. Figures: the largest first.
    pub(super) fn processes(&self) -> Vec<&Participant> {
        let mut live: Vec<&Participant> = self.sample.participants.iter().filter(|p| p.is_live()).collect();
        let figure = |p: &Participant| match self.sort {
            Sort::Id | Sort::Label => 0.0,
            Sort::Tasks => self.rates.tasks(p.name()).unwrap_or(0.0),
            Sort::Cpu => self.rates.cpu(p.name()).unwrap_or(0.0),
            Sort::Memory => p.process.map_or(0, |p| p.own_bytes) as f64,
            Sort::Running => p.task.as_ref().and_then(|t| t.running_ns).unwrap_or(0) as f64,
        };
        live.sort_by(|a, b| match self.sort {
            Sort::Id => Ordering::Equal,
            Sort::Label => natural(&a.label).cmp(&natural(&b.label)),
            _ => figure(b).total_cmp(&figure(a)),
        });
        live
    }
}

/// `worker:10` comes after `worker:9`.
fn natural(label: &str) -> (&str, u32) {
    label.rsplit_once(':').and_then(|(kind, n)| Some((kind, n.parse().ok()?))).unwrap_or((label, 0))
}

fn intervals() -> impl DoubleEndedIterator<Item = Duration> {
    INTERVALS.into_iter().map(Duration::from_millis)
}
