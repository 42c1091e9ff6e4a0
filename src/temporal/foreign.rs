//! Raw processes, as the bridge has them: programs in other languages, under an SDK of their own, that take their messages as they
//! are ([`crate::lanes::raw`]).
//!
//! Who comes says first what it is. It is refused if it doesn't match what the pool serves, or what others like it register: a run
//! goes from one to the other when one of them dies, and there a type that is missing would fail it.

use super::bridge::Config;
use crate::lockfree::participant::Name;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};

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

/// What the raw processes that live have registered.
#[derive(Default)]
pub(super) struct Registered(HashMap<Name, BTreeMap<&'static str, BTreeSet<String>>>);

impl Registered {
    /// Forgets those who are gone: what they had registered binds nobody any more.
    pub(super) fn retain(&mut self, is_live: impl Fn(Name) -> bool) {
        self.0.retain(|who, _| is_live(*who));
    }

    /// # Errors
    /// Why a process that says this is refused.
    pub(super) fn admit(&mut self, who: Name, said: &[u8], namespace: &str, config: &Config) -> Result<(), String> {
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
        let said = [("workflows", hello.workflows), ("activities", hello.activities)];
        let said: BTreeMap<_, _> = said.into_iter().filter_map(|(what, types)| Some((what, types?))).collect();
        for (what, says) in &said {
            let others = self.0.iter().filter(|(other, _)| **other != who);
            if let Some(known) = others.filter_map(|(_, known)| known.get(what)).find(|known| *known != says) {
                return Err(format!(
                    "it registers the {what} {says:?}, but another process of this pool {known:?}: let all of them register \
                     the same"
                ));
            }
        }
        // Not before: what a process says that is refused binds nobody.
        self.0.insert(who, said);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_match_is_told_what_and_how_to_change_it() {
        let config = Config::new("queue".into());
        let mut registered = Registered::default();
        let mut next = 0;
        let mut says = |json: &str| {
            next += 1;
            registered.admit(Name::new(next, 1), json.as_bytes(), "default", &config)
        };
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
        let mut next = 0;
        let mut says = |json: &str| {
            next += 1;
            registered.admit(Name::new(next, 1), json.as_bytes(), "default", &config)
        };
        assert_eq!(says(r#"{"activities":["A"]}"#), Ok(()));
        assert!(says(r#"{"workflows":["wrong"],"activities":["B"]}"#).is_err());
        assert_eq!(says(r#"{"workflows":["right"],"activities":["A"]}"#), Ok(()), "what was refused binds nobody");
        assert!(says(r#"{"task_queue":"queue"}"#).unwrap_err().contains("known are"));
        assert!(says("queue").unwrap_err().contains("cannot be read"));
    }

    #[test]
    fn what_is_registered_binds_others_for_as_long_as_who_has_it_lives() {
        let config = Config::new("queue".into());
        let mut registered = Registered::default();
        let [first, second] = [1, 2].map(|id| Name::new(id, 1));
        let (wrong, right) = (br#"{"workflows":["wrong"]}"#, br#"{"workflows":["right"]}"#);
        assert_eq!(registered.admit(first, wrong, "default", &config), Ok(()));
        assert!(registered.admit(second, right, "default", &config).is_err());
        assert_eq!(registered.admit(first, wrong, "default", &config), Ok(()), "the next bridge asks again");
        registered.retain(|who| who != first);
        assert_eq!(registered.admit(second, right, "default", &config), Ok(()));
        assert!(registered.admit(first, wrong, "default", &config).is_err());
    }
}
