//! Lines of input, and of results.

use crate::jobs::{Job, JobResult, ProgramArgs};

/// Each line is a job, blank, or refused with a text; what is a job or a result is written as one line that says the same. `data`:
/// lines.
///
/// # Panics
/// If that is not so.
pub fn jsonl_line(data: &[u8]) {
    for line in data.split(|&byte| byte == b'\n') {
        match Job::of_line(line) {
            Ok(None) => assert!(line.trim_ascii().is_empty(), "{line:?}"),
            Err(why) => assert!(!why.is_empty() && !why.contains('\n'), "{why:?}"),
            Ok(Some(job)) => {
                let written = serde_json::to_string(&job).unwrap();
                assert!(!written.contains('\n'), "{written:?}");
                let again = Job::of_line(written.as_bytes()).unwrap().unwrap();
                assert_eq!(serde_json::to_string(&again).unwrap(), written);
                assert_eq!((&again.task, &again.label, &again.key), (&job.task, &job.label, &job.key));
                assert_eq!((again.timeout, again.retries), (job.timeout, job.retries));
                let text = |job: &Job| job.args.as_deref().map(|args| args.get().to_owned());
                assert_eq!(text(&again), text(&job), "the arguments stay as they were written");
                if let Some(args) = &job.args {
                    // What a worker makes of them.
                    let _ = serde_json::from_str::<ProgramArgs>(args.get()).map(ProgramArgs::check);
                }
            }
        }
        if let Ok(result) = serde_json::from_slice::<JobResult>(line) {
            let written = serde_json::to_string(&result).unwrap();
            assert!(!written.contains('\n'), "{written:?}");
            let again: JobResult = serde_json::from_str(&written).unwrap();
            assert_eq!(serde_json::to_string(&again).unwrap(), written);
        }
    }
}
