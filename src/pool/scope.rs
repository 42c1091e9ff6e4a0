//! Different tasks under labels, as one batch, and a table of how each went.

use super::{
    PoolError, TaskError,
    client::Done,
    codec::Wire,
    handle::{Finished, Handle, check, finished},
    options::TaskOptions,
    submitter::Submitter,
    tasks::Task,
};
use std::{fmt, time::Duration};

/// Tasks that are waited for together: [`Submitter::scope`].
pub struct Scope<'p> {
    pool: &'p Submitter,
    tasks: Vec<(String, String, Option<Handle<super::Bytes>>)>,
}

impl fmt::Debug for Scope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.tasks.iter().map(|(label, ..)| label)).finish()
    }
}

impl<'p> Scope<'p> {
    pub(super) fn new(pool: &'p Submitter) -> Scope<'p> {
        Scope { pool, tasks: Vec::new() }
    }

    /// Submits a task under a label. The handle may be kept for the result, or dropped.
    ///
    /// # Errors
    /// As [`Submitter::submit`].
    ///
    /// ```no_run
    /// # use shmworker::{Pool, Tasks};
    /// # let mut tasks = Tasks::new();
    /// # let square = tasks.function("square", |x: u64| x * x);
    /// # let pool = Pool::builder().fork(tasks)?;
    /// let mut twelve = None;
    /// let report = pool.scope(|scope| {
    ///     twelve = Some(scope.submit("twelve", square, &12)?);
    ///     Ok(())
    /// })?;
    /// assert_eq!(report.exit_code(), 0);
    /// assert_eq!(twelve.map(|handle| handle.wait()), Some(Ok(144)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn submit<I: Wire, O: Wire>(
        &mut self,
        label: impl Into<String>,
        task: Task<I, O>,
        input: I::Ref<'_>,
    ) -> Result<Handle<O>, PoolError> {
        self.submit_with(label, task, input, &TaskOptions::new())
    }

    /// As [`submit`](Self::submit), with options.
    ///
    /// # Errors
    /// As [`Submitter::submit_with`].
    ///
    /// ```no_run
    /// # use shmworker::{Pool, Tasks};
    /// # let mut tasks = Tasks::new();
    /// # let square = tasks.function("square", |x: u64| x * x);
    /// # let pool = Pool::builder().fork(tasks)?;
    /// use shmworker::pool::TaskOptions;
    ///
    /// let report = pool.scope(|scope| {
    ///     scope.submit_with("twelve", square, &12, &TaskOptions::new().attempts(3))?;
    ///     Ok(())
    /// })?;
    /// # let _ = report;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn submit_with<I: Wire, O: Wire>(
        &mut self,
        label: impl Into<String>,
        task: Task<I, O>,
        input: I::Ref<'_>,
        options: &TaskOptions,
    ) -> Result<Handle<O>, PoolError> {
        let handle = self.pool.submit_with(task, input, options)?;
        self.tasks.push((label.into(), self.pool.name_of(task.kind).to_owned(), Some(handle.share())));
        Ok(handle)
    }

    /// Waits for all of them.
    pub(super) fn join(mut self) -> Report {
        let row = |(label, task, handle): &mut (String, String, Option<Handle<super::Bytes>>)| {
            let done = handle.take().map(Handle::done)?;
            // Whether it was done is asked, not what it gave, which is of any type.
            let finished = finished(self.pool.client(), done, |done: &Done| check(done).map(drop));
            Some(Row { label: std::mem::take(label), task: std::mem::take(task), finished })
        };
        let report = Report { rows: self.tasks.iter_mut().filter_map(row).collect() };
        for row in &report.rows {
            if let Err(e) = &row.finished.result {
                tracing::warn!("{}: {e}", row.label);
            }
        }
        report
    }
}

impl Drop for Scope<'_> {
    fn drop(&mut self) {
        for (.., handle) in &mut self.tasks {
            // After an error or a panic of what submits: what has come of them nobody asks any more.
            let _ = handle.take().map(Handle::done);
        }
    }
}

/// How each task of a [`Scope`] went, in the order of their submission. Displayed, it is a table.
///
/// ```text
/// label    task    outcome   worker    pid    attempts  exit                 ran
/// twelve   square  done      worker:0  31416  1                              2 µs
/// crash    abort   died      worker:1  31417  3         signal 6 (SIGABRT)   1.2 ms
/// ```
#[derive(Debug)]
pub struct Report {
    /// A row per task.
    pub rows: Vec<Row>,
}

/// One task of a [`Report`].
///
/// ```no_run
/// # use shmworker::{Pool, Tasks};
/// # let mut tasks = Tasks::new();
/// # let square = tasks.function("square", |x: u64| x * x);
/// # let pool = Pool::builder().fork(tasks)?;
/// let report = pool.scope(|scope| scope.submit("twelve", square, &12).map(drop))?;
/// for row in &report.rows {
///     println!("{} was {} after {} attempts", row.label, row.outcome(), row.finished.attempts);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Row {
    /// The label under which it was submitted.
    pub label: String,
    /// The name under which it is registered.
    pub task: String,
    /// How it went.
    pub finished: Finished<()>,
}

impl Row {
    /// One word for how it went.
    pub fn outcome(&self) -> &'static str {
        match &self.finished.result {
            Ok(()) => "done",
            Err(e) => e.word(),
        }
    }

    /// How its worker ended, if it did.
    fn exit(&self) -> &str {
        match &self.finished.result {
            Err(TaskError::Died(blame) | TaskError::TimedOut(blame)) => &blame.exit,
            _ => "",
        }
    }
}

impl Report {
    /// Those that were not done.
    ///
    /// ```no_run
    /// # use shmworker::{Pool, Tasks};
    /// # let mut tasks = Tasks::new();
    /// # let square = tasks.function("square", |x: u64| x * x);
    /// # let pool = Pool::builder().fork(tasks)?;
    /// let report = pool.scope(|scope| scope.submit("twelve", square, &12).map(drop))?;
    /// let failed: Vec<_> = report.failed().map(|row| &row.label).collect();
    /// # let _ = failed;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn failed(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.finished.result.is_err())
    }

    /// 0 if all were done, 1 if some failed: for [`std::process::exit`].
    pub fn exit_code(&self) -> u8 {
        self.failed().next().is_some().into()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["label", "task", "outcome", "worker", "pid", "attempts", "exit", "ran"].map(str::to_owned);
        let mut lines = vec![head];
        for row in &self.rows {
            let Finished { worker, attempts, ran, .. } = &row.finished;
            lines.push([
                row.label.clone(),
                row.task.clone(),
                row.outcome().to_owned(),
                worker.map_or_else(String::new, |w| w.to_string()),
                worker.map_or_else(String::new, |w| w.pid.to_string()),
                attempts.to_string(),
                row.exit().to_owned(),
                time(*ran),
            ]);
        }
        let widths: Vec<_> =
            (0..lines[0].len()).map(|i| lines.iter().map(|line| line[i].chars().count()).max().unwrap_or(0)).collect();
        for line in lines {
            let cells: Vec<_> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            writeln!(f, "{}", cells.join("  ").trim_end())?;
        }
        for row in self.failed() {
            if let Err(e) = &row.finished.result {
                writeln!(f, "{}: {e}", row.label)?;
            }
        }
        Ok(())
    }
}

/// Three digits are enough; nothing for what never came to its end.
fn time(t: Duration) -> String {
    if t.is_zero() { String::new() } else { format!("{:.2?}", t) }
}
