// What no release of this major number may change: codes and flags keep their numbers, fields their places. What is new is added here.
//
// Compiled, and not run.

#include <shmworker.h>

_Static_assert(SHMWORKER_ABI_MAJOR == 1, "another major number has another page of these");

#define NUMBER(name, n) _Static_assert(SHMWORKER_##name == (n), "SHMWORKER_" #name " had the number " #n)
#define FIELD(type, field, at) \
    _Static_assert(offsetof(struct shmworker_##type, field) == (at), "shmworker_" #type "." #field " was at " #at)

NUMBER(RESULT_OK, 0);
NUMBER(RESULT_FAILED, 1);
NUMBER(RESULT_CANCELLED, 2);
NUMBER(RESULT_NULL_ARGUMENT, 100);
NUMBER(RESULT_INVALID_ARGUMENT, 101);
NUMBER(RESULT_INVALID_UTF8, 102);
NUMBER(RESULT_NOT_FOUND, 103);
NUMBER(RESULT_UNSUPPORTED, 104);
NUMBER(RESULT_NAME_TAKEN, 105);
NUMBER(RESULT_ABI_MISMATCH, 106);
NUMBER(RESULT_WRONG_TIME, 107);
NUMBER(RESULT_STALE_HANDLE, 108);
NUMBER(RESULT_BUSY, 109);
NUMBER(RESULT_TOO_LARGE, 200);
NUMBER(RESULT_NO_SPACE, 201);
NUMBER(RESULT_CORRUPTED, 300);
NUMBER(RESULT_PANICKED, 301);
NUMBER(RESULT_OS_ERROR, 302);
NUMBER(RESULT_NOT_READY, 400);
NUMBER(RESULT_DRAINING, 401);
NUMBER(RESULT_POOL_ENDED, 402);
NUMBER(RESULT_NOT_RUNNING, 403);
NUMBER(RESULT_REFUSED, 404);
NUMBER(RESULT_NOT_STARTED, 405);
NUMBER(RESULT_HAS_THREADS, 406);
NUMBER(RESULT_ANOTHER_PROCESS, 407);
NUMBER(RESULT_TASK_FAILED, 500);
NUMBER(RESULT_TASK_PANICKED, 501);
NUMBER(RESULT_TASK_DIED, 502);
NUMBER(RESULT_TASK_TIMED_OUT, 503);
NUMBER(RESULT_TASK_CANCELLED, 504);
NUMBER(RESULT_TASK_EXPIRED, 505);
NUMBER(RESULT_TASK_UNKNOWN, 506);
NUMBER(INFO_NAME, 0);
NUMBER(INFO_NAMESPACE, 1);
NUMBER(INFO_TASK_QUEUE, 2);
NUMBER(INFO_ACTIVITY_ID, 3);
NUMBER(INFO_WORKFLOW_ID, 4);
NUMBER(INFO_WORKFLOW_RUN_ID, 5);
NUMBER(INFO_WORKFLOW_TYPE, 6);
NUMBER(LOG_LEVEL_ERROR, 1);
NUMBER(LOG_LEVEL_WARN, 2);
NUMBER(LOG_LEVEL_INFO, 3);
NUMBER(LOG_LEVEL_DEBUG, 4);
NUMBER(TEMPORAL_LANE_WORKFLOW, 1);
NUMBER(TEMPORAL_LANE_ACTIVITY, 2);
NUMBER(TEMPORAL_FOUND_EMPTY, 0);
NUMBER(TEMPORAL_FOUND_MESSAGE, 1);
NUMBER(TEMPORAL_FOUND_CLOSED, 2);
NUMBER(TEMPORAL_STAGE_RUNNING, 0);
NUMBER(TEMPORAL_STAGE_SHUTTING_DOWN, 1);
NUMBER(TEMPORAL_STAGE_STOPPED, 2);
NUMBER(HANDLER_AUTO_HEARTBEAT, 1);
NUMBER(RETRY_FAILED, 1);
NUMBER(RETRY_PANICKED, 2);
NUMBER(RETRY_DIED, 4);
NUMBER(RETRY_TIMED_OUT, 8);

FIELD(task_options, size, 0);
FIELD(task_options, queue, 8);
FIELD(task_options, key, 16);
FIELD(task_options, max_attempts, 24);
FIELD(task_options, retry_on, 28);
FIELD(task_options, backoff_ms, 32);
FIELD(task_options, max_backoff_ms, 40);
FIELD(task_options, timeout_ms, 48);
FIELD(task_options, grace_ms, 56);
FIELD(task_options, heartbeat_timeout_ms, 64);
FIELD(task_options, expires_in_ms, 72);
FIELD(task_options, max_worker_deaths, 80);
FIELD(task_options, reserved, 84);

FIELD(payload, data, 0);
FIELD(payload, len, 8);
FIELD(payload, encoding, 16);

FIELD(failure, size, 0);
FIELD(failure, message, 8);
FIELD(failure, type, 16);
FIELD(failure, non_retryable, 24);
FIELD(failure, next_retry_delay_ms, 32);
FIELD(failure, details, 40);
FIELD(failure, details_len, 48);
FIELD(failure, details_encoding, 56);

FIELD(context_functions, size, 0);
FIELD(context_functions, info, 8);
FIELD(context_functions, attempt, 16);
FIELD(context_functions, argument_count, 24);
FIELD(context_functions, argument, 32);
FIELD(context_functions, metadata, 40);
FIELD(context_functions, reserve, 48);
FIELD(context_functions, set_length, 56);
FIELD(context_functions, set_encoding, 64);
FIELD(context_functions, set_result, 72);
FIELD(context_functions, fail, 80);
FIELD(context_functions, is_cancelled, 88);
FIELD(context_functions, is_worker_shutdown, 96);
FIELD(context_functions, time_left_ms, 104);
FIELD(context_functions, heartbeat, 112);
FIELD(context_functions, progress, 120);
FIELD(context_functions, checkpoint, 128);
FIELD(context_functions, last_checkpoint, 136);
FIELD(context_functions, state, 144);

FIELD(context, functions, 0);

FIELD(pool_options, size, 0);
FIELD(pool_options, name, 8);
FIELD(pool_options, workers, 16);
FIELD(pool_options, max_workers, 24);
FIELD(pool_options, slots, 32);
FIELD(pool_options, queues, 40);
FIELD(pool_options, queue_count, 48);
FIELD(pool_options, grace_ms, 56);
FIELD(pool_options, start_timeout_ms, 64);
FIELD(pool_options, max_memory, 72);
FIELD(pool_options, max_tasks, 80);
FIELD(pool_options, reserve, 88);
FIELD(pool_options, reserved, 92);

FIELD(outcome, size, 0);
FIELD(outcome, code, 8);
FIELD(outcome, attempts, 12);
FIELD(outcome, message, 16);
FIELD(outcome, data, 24);
FIELD(outcome, len, 32);
FIELD(outcome, pid, 40);
FIELD(outcome, signal, 44);
FIELD(outcome, exit_code, 48);
FIELD(outcome, reserved, 52);

FIELD(temporal_options, size, 0);
FIELD(temporal_options, pool, 8);
FIELD(temporal_options, lanes, 16);
FIELD(temporal_options, activity_slots, 20);
FIELD(temporal_options, max_activations, 24);
FIELD(temporal_options, reserved, 28);

FIELD(handler, size, 0);
FIELD(handler, abi_major, 8);
FIELD(handler, abi_minor, 12);
FIELD(handler, name, 16);
FIELD(handler, run, 24);
FIELD(handler, user_data, 32);
FIELD(handler, flags, 40);
FIELD(handler, kill_after_ms, 48);

FIELD(host, size, 0);
FIELD(host, abi_major, 8);
FIELD(host, abi_minor, 12);
FIELD(host, handle, 16);
FIELD(host, register_handler, 24);
FIELD(host, register_state, 32);
FIELD(host, log, 40);
FIELD(host, version, 48);
