//! A line of input.

use super::Job;

impl Job {
    /// The job that a line is; `None`: it is blank.
    ///
    /// # Errors
    /// Why it is none, as a line for people.
    ///
    /// ```
    /// use shmworker::jobs::Job;
    ///
    /// assert_eq!(Job::of_line(br#"{"task":"echo"}"#)?.map(|job| job.task).as_deref(), Some("echo"));
    /// assert!(Job::of_line(b" \r\n")?.is_none());
    /// assert!(Job::of_line(b"{}").unwrap_err().starts_with("missing field `task`"));
    /// # Ok::<(), String>(())
    /// ```
    pub fn of_line(line: &[u8]) -> Result<Option<Job>, String> {
        if line.trim_ascii().is_empty() {
            return Ok(None);
        }
        // It says where: there is but one line.
        serde_json::from_slice(line).map(Some).map_err(|e| e.to_string().replace(" at line 1 column ", " at column "))
    }
}
