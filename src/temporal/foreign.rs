//! Raw processes, as the bridge has them: programs in other languages, under an SDK of their own, that take their messages as they
//! are ([`crate::lanes::raw`]).
//!
//! Who comes says first what it is. It is refused if it doesn't match what the pool serves, or what others like it register: a run
//! goes from one to the other when one of them dies, and there a type that is missing would fail it.

use super::bridge::Config;
use serde::Deserialize;
use std::collections::BTreeSet;

/// What a raw process says of itself: what it leaves out, it doesn't mind.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hello {
    namespace: Option<String>,
    workflow_task_queue: Option<String>,
    activity_task_queue: Option<String>,
    build_id: Option<String>,
    /// Workflow types that it has registered.
    workflows: Option<BTreeSet<String>>,
    /// Activity types.
    activities: Option<BTreeSet<String>>,
}

/// What all raw processes have registered, as the first of each kind has said it.
#[derive(Default)]
pub(super) struct Registered {
    workflows: Option<BTreeSet<String>>,
    activities: Option<BTreeSet<String>>,
}

impl Registered {
    /// # Errors
    /// Why a process that says this is refused.
    pub(super) fn admit(&mut self, said: &[u8], namespace: &str, config: &Config) -> Result<(), String> {
        let hello: Hello = serde_json::from_slice(said).map_err(|e| {
            format!("its hello cannot be read: {e}; known are namespace, workflow_task_queue, activity_task_queue, build_id, \
                     workflows and activities")
        })?;
        let build_id = config.deployment.as_ref().map(|deployment| deployment.version.build_id.as_str());
        for (what, says, serves, remedy) in [
            ("namespace", &hello.namespace, Some(namespace), "--namespace"),
            (
                "workflow task queue",
                &hello.workflow_task_queue,
                Some(&*config.workflow_task_queue),
                "--workflow-task-queue",
            ),
            (
                "activity task queue",
                &hello.activity_task_queue,
                Some(&*config.activity_task_queue),
                "--activity-task-queue",
            ),
            ("build id", &hello.build_id, build_id, "--build-id"),
        ] {
            match (says, serves) {
                (Some(says), Some(serves)) if says != serves => {
                    return Err(format!(
                        "its {what} is '{says}', but this pool's is '{serves}': change it there, or give '{remedy} {says}'"
                    ));
                }
                (Some(says), None) => {
                    return Err(format!("its {what} is '{says}', but this pool has none: give '{remedy} {says}'"));
                }
                _ => {}
            }
        }
        agree("workflows", &self.workflows, &hello.workflows)?;
        agree("activities", &self.activities, &hello.activities)?;
        // Not before: what a process says that is refused binds nobody.
        let Registered { workflows, activities } = self;
        *workflows = workflows.take().or(hello.workflows);
        *activities = activities.take().or(hello.activities);
        Ok(())
    }
}

fn agree(what: &str, known: &Option<BTreeSet<String>>, says: &Option<BTreeSet<String>>) -> Result<(), String> {
    match (known, says) {
        (Some(known), Some(says)) if known != says => Err(format!(
            "it registers the {what} {says:?}, but another process of this pool {known:?}: let all of them register the same"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_match_is_told_what_and_how_to_change_it() {
        let config = Config::new("queue".into());
        let mut registered = Registered::default();
        let mut says = |json: &str| registered.admit(json.as_bytes(), "default", &config);
        assert_eq!(says(r#"{}"#), Ok(()));
        assert_eq!(says(r#"{"namespace":"default","workflow_task_queue":"queue","workflows":["B","A"]}"#), Ok(()));
        assert_eq!(says(r#"{"workflows":["A","B"]}"#), Ok(()), "the order says nothing");
        assert_eq!(
            says(r#"{"workflow_task_queue":"other"}"#).unwrap_err(),
            "its workflow task queue is 'other', but this pool's is 'queue': change it there, or give '--workflow-task-queue other'"
        );
        assert!(says(r#"{"build_id":"7"}"#).unwrap_err().contains("this pool has none: give '--build-id 7'"));
        assert!(says(r#"{"workflows":["A"]}"#).unwrap_err().contains("let all of them register the same"));
        assert_eq!(says(r#"{"activities":["A"]}"#), Ok(()));
        let mut registered = Registered::default();
        let mut says = |json: &str| registered.admit(json.as_bytes(), "default", &config);
        assert_eq!(says(r#"{"activities":["A"]}"#), Ok(()));
        assert!(says(r#"{"workflows":["wrong"],"activities":["B"]}"#).is_err());
        assert_eq!(says(r#"{"workflows":["right"],"activities":["A"]}"#), Ok(()), "what was refused binds nobody");
        assert!(says(r#"{"task_queue":"queue"}"#).unwrap_err().contains("known are"));
        assert!(says("queue").unwrap_err().contains("cannot be read"));
    }
}
