//! Faults that the models must notice: each is planted in a run of the model that is there for it, which must fail.

use std::process::Command;

/// A fault (`sync::mutant` says where it is planted) and the model that fails for it.
const MUTANTS: &[(&str, &str)] = &[
    ("no-recheck", "loom_lane::remover_of_a_stale_hint_meets_the_sweep"),
    ("no-remove-fence", "loom_lane::remover_of_a_stale_hint_meets_the_sweep"),
    ("no-overflow-flag", "loom_lane::submitter_to_a_full_lane_dies"),
    ("plain-flag", "loom_lane::one_flag_carries_two_overflows"),
    ("no-orphan-check", "loom_tasks::submitter_dies_while_its_task_runs"),
    ("no-orphan-fence", "loom_tasks::submitter_dies_while_its_task_runs"),
    ("no-addressee-check", "loom_private::addressee_dies_while_it_is_addressed"),
    ("no-park-fence", "loom_park::there_and_back"),
    ("no-rescan-wake", "loom_park::a_rescan_wakes_for_what_it_leaves"),
    ("no-wake-next", "loom_park::a_swallowed_wake_is_passed_on"),
    ("give-back-punch-first", "loom_blocks::who_gives_a_chunk_back_dies"),
    ("no-generation", "loom_tasks::worker_with_a_hint_of_the_life_before_dies"),
    ("relaxed-exchange", "loom_tasks::a_descriptor_changes_hands"),
];

#[test]
fn each_mutant_fails_its_model() {
    let tests = std::env::current_exe().unwrap();
    let survivors: Vec<_> = MUTANTS
        .iter()
        .filter(|(mutant, model)| {
            let model = format!("lockfree::tests::{model}");
            let run = Command::new(&tests).args([&model, "--exact"]).env("SHMWORKER_MUTANT", mutant).output().unwrap();
            let report = String::from_utf8_lossy(&run.stdout);
            assert!(report.contains("running 1 test"), "there is no model {model}");
            run.status.success()
        })
        .collect();
    assert!(survivors.is_empty(), "unnoticed: {survivors:?}");
}
