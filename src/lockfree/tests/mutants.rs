//! Faults that the models must notice: each is planted in a run of the model that is there for it, which must fail.

use std::process::Command;

/// A fault, or several (`sync::mutant` says where each is planted), and the model that fails for it.
#[cfg(loom)]
const MUTANTS: &[(&str, &str)] = &[
    // The whole word: what is done by exchange, and what travels with it.
    ("no-generation", "loom_tasks::worker_with_a_hint_of_the_life_before_dies"),
    ("no-generation", "loom_tasks::worker_with_a_hint_of_what_was_renewed_dies"),
    ("relaxed-exchange", "loom_tasks::a_descriptor_changes_hands"),
    ("relaxed-requeue", "loom_retry::worker_that_gives_back_dies"),
    // What is told of an attempt
    ("any-run", "loom_tasks::worker_dies_over_the_last_attempt"),
    ("no-sign", "loom_tasks::worker_dies_over_the_last_attempt"),
    ("no-withdrawal", "loom_retry::who_gets_what_was_handed_back_dies"),
    // [remove]
    ("no-recheck", "loom_recovery::recoverer_of_a_worker_dies"),
    ("no-remove-fence", "loom_recovery::recoverer_of_a_worker_dies"),
    ("no-second-hint", "loom_lane::who_is_stopped_over_a_stale_hint_hides_no_task"),
    ("no-second-hint+no-sweep-fence", "loom_lane::remover_of_a_stale_hint_meets_the_sweep"),
    ("no-second-hint+no-trim-recheck", "loom_own::who_trims_meets_the_sweep"),
    ("no-second-hint+no-trim-fence", "loom_own::who_trims_meets_the_sweep"),
    // [overflow]
    ("no-overflow-flag", "loom_lane::submitter_to_a_full_lane_dies"),
    ("blind-glance", "loom_lane::submitter_to_a_full_lane_dies"),
    ("plain-flag", "loom_lane::one_flag_carries_two_overflows"),
    ("blind-lower", "loom_lane::one_flag_carries_two_overflows"),
    // [orphan], and whose death recovery asks for
    ("no-orphan-check", "loom_tasks::submitter_dies_while_its_task_runs"),
    ("no-orphan-fence", "loom_tasks::submitter_dies_while_its_task_runs"),
    ("no-second-orphan-check", "loom_retry::what_is_put_off_for_a_dead_submitter_expires"),
    ("no-return-check", "loom_retry::submitter_dies_then_the_worker_that_puts_off"),
    ("no-addressee-check", "loom_private::addressee_dies_while_it_is_addressed"),
    ("no-late-orphans", "loom_retry::submitter_dies_then_the_worker_that_completes"),
    ("no-dead-submitter", "loom_retry::submitter_dies_then_the_worker_over_the_last_attempt"),
    ("no-lost-addressee", "loom_recovery::recoverer_of_an_addressee_dies"),
    ("no-name-check", "loom_private::the_heir_of_a_submitter_gets_nothing_of_it"),
    // What a durable client was reading
    ("no-note", "loom_seat::durable_client_dies"),
    // [park]
    ("no-park-fence", "loom_park::there_and_back"),
    ("no-post-fence", "loom_park::there_and_back"),
    ("no-done-fence", "loom_park::there_and_back"),
    ("no-wake-next", "loom_park::a_swallowed_wake_is_passed_on"),
    // [room]
    ("no-room-fence", "loom_room::who_makes_room_dies"),
    // [cancel]
    ("no-cancel-fence", "loom_cancel::worker_that_puts_off_what_is_cancelled_dies"),
    ("no-cancel-recheck", "loom_cancel::worker_that_puts_off_what_is_cancelled_dies"),
    ("no-cancel-check", "loom_cancel::who_cancels_what_is_handed_back_dies"),
    ("no-claim-fence", "loom_cancel::who_cancels_what_is_handed_back_dies"),
    // [timer]
    ("no-timer-fence", "loom_timer::who_sets_a_time_dies"),
    ("no-timer-ring", "loom_timer::who_sets_a_time_dies"),
    ("no-tick-fence", "loom_timer::who_sets_a_time_dies"),
    // [watch]
    ("no-watch-fence", "loom_timer::a_look_finishes_what_was_begun_before_it"),
    ("no-look-fence", "loom_timer::a_look_finishes_what_was_begun_before_it"),
    ("no-watch-ring", "loom_timer::where_a_wake_is_not_answered_another_is_woken"),
    // [block], and the order within a chunk
    ("relaxed-block", "loom_blocks::one_of_two_who_want_the_last_block_dies"),
    ("give-back-punch-first", "loom_blocks::who_gives_a_chunk_back_dies"),
    // Checkpoints
    ("checkpoint-count-first", "loom_blocks::worker_that_leaves_checkpoints_dies"),
    ("no-checkpoint-tidying", "loom_blocks::worker_that_leaves_checkpoints_dies"),
];
/// Those that a sequentially consistent machine can show.
#[cfg(shuttle)]
const MUTANTS: &[(&str, &str)] = &[
    ("no-generation", "shuttle_pool::by_priority"),
    ("any-run", "shuttle_pool::by_priority"),
    ("no-sign", "shuttle_pool::by_priority"),
    ("no-withdrawal", "shuttle_pool::by_priority"),
    ("no-overflow-flag", "shuttle_pool::by_priority"),
    ("blind-glance", "shuttle_pool::by_priority"),
    ("no-orphan-check", "shuttle_pool::by_priority"),
    ("no-second-orphan-check", "shuttle_pool::by_priority"),
    ("no-return-check", "shuttle_pool::by_priority"),
    ("no-addressee-check", "shuttle_pool::by_priority"),
    ("no-late-orphans", "shuttle_pool::by_priority"),
    ("no-dead-submitter", "shuttle_pool::by_priority"),
    ("no-lost-addressee", "shuttle_pool::by_priority"),
    ("no-name-check", "shuttle_pool::by_priority"),
    ("no-cancel-check", "shuttle_pool::by_priority"),
    ("no-timer-ring", "shuttle_pool::by_priority"),
    ("give-back-punch-first", "shuttle_pool::by_priority"),
];

#[test]
fn each_mutant_fails_its_model() {
    let tests = std::env::current_exe().unwrap();
    let survivors: Vec<_> = MUTANTS
        .iter()
        .filter(|(mutant, model)| {
            let model = format!("lockfree::tests::{model}");
            let run = Command::new(&tests)
                .args([&model, "--exact"])
                .env("SHMWORKER_MUTANT", mutant)
                .env("SHMWORKER_SEED", "1")
                .env_remove("SHMWORKER_POOLS")
                .output()
                .unwrap();
            let report = String::from_utf8_lossy(&run.stdout);
            assert!(report.contains("running 1 test"), "there is no model {model}");
            run.status.success()
        })
        .collect();
    assert!(survivors.is_empty(), "unnoticed: {survivors:?}");
}
