// Every function with NULL, with handles that were freed, never were, or are of another kind, after shutdown, in a fork, with
// lengths of 0 and of SIZE_MAX, with structs of other versions, from two threads at once: a code, and a text.

#define _GNU_SOURCE

#include "expect.h"

#include <poll.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#define IN_HANDLER(code, call)                                                                                         \
    if ((call) != SHMWORKER_RESULT_##code) return __LINE__

// What a context's own functions say to NULL, and to nonsense: the line that is not so, or 0.
static int misuses(struct shmworker_context *context) {
    struct shmworker_payload input;
    struct shmworker_failure failure = {.size = 8, .message = "too short"};
    const uint8_t *data;
    uint8_t *place;
    size_t len;
    IN_HANDLER(NULL_ARGUMENT, shmworker_context_argument(NULL, 0, &input));
    IN_HANDLER(NULL_ARGUMENT, shmworker_context_argument(context, 0, NULL));
    IN_HANDLER(NOT_FOUND, shmworker_context_argument(context, SIZE_MAX, &input));
    IN_HANDLER(NULL_ARGUMENT, shmworker_context_metadata(NULL, 0, "key", &data, &len));
    IN_HANDLER(NULL_ARGUMENT, shmworker_context_metadata(context, 0, NULL, &data, &len));
    IN_HANDLER(INVALID_UTF8, shmworker_context_metadata(context, 0, "\xff", &data, &len));
    IN_HANDLER(NOT_FOUND, shmworker_context_metadata(context, 0, "key", &data, &len));
    IN_HANDLER(NOT_FOUND, shmworker_context_metadata(context, SIZE_MAX, "key", NULL, NULL));
    IN_HANDLER(INVALID_ARGUMENT, shmworker_context_set_length(context, 0));
    IN_HANDLER(NULL_ARGUMENT, shmworker_context_reserve(NULL, 1, &place));
    IN_HANDLER(NULL_ARGUMENT, shmworker_context_reserve(context, 1, NULL));
    IN_HANDLER(TOO_LARGE, shmworker_context_reserve(context, SIZE_MAX, &place));
    IN_HANDLER(INVALID_ARGUMENT, shmworker_context_set_length(context, 1));
    IN_HANDLER(OK, shmworker_context_reserve(context, 0, &place));
    IN_HANDLER(OK, shmworker_context_reserve(context, 8, &place));
    IN_HANDLER(NULL_ARGUMENT, shmworker_context_set_length(NULL, 0));
    IN_HANDLER(INVALID_ARGUMENT, shmworker_context_set_length(context, SIZE_MAX));
    IN_HANDLER(NULL_ARGUMENT, shmworker_context_set_encoding(NULL, "json/plain"));
    IN_HANDLER(NULL_ARGUMENT, shmworker_context_set_encoding(context, NULL));
    IN_HANDLER(INVALID_UTF8, shmworker_context_set_encoding(context, "\xff"));
    IN_HANDLER(NULL_ARGUMENT, shmworker_context_set_result(NULL, "", 0, NULL));
    IN_HANDLER(NULL_ARGUMENT, shmworker_context_set_result(context, NULL, 1, NULL));
    IN_HANDLER(TOO_LARGE, shmworker_context_set_result(context, "", SIZE_MAX, NULL));
    IN_HANDLER(INVALID_UTF8, shmworker_context_set_result(context, "", 0, "\xff"));
    IN_HANDLER(NULL_ARGUMENT, shmworker_context_fail_with(NULL, &failure));
    IN_HANDLER(NULL_ARGUMENT, shmworker_context_fail_with(context, NULL));
    IN_HANDLER(INVALID_ARGUMENT, shmworker_context_fail_with(context, &failure));
    failure = (struct shmworker_failure){.size = sizeof failure};
    IN_HANDLER(NULL_ARGUMENT, shmworker_context_fail_with(context, &failure));
    failure = (struct shmworker_failure){.size = sizeof failure, .message = "m", .details_len = 1};
    IN_HANDLER(NULL_ARGUMENT, shmworker_context_fail_with(context, &failure));
    failure.details = &(uint8_t){0}, failure.details_len = SIZE_MAX;
    IN_HANDLER(TOO_LARGE, shmworker_context_fail_with(context, &failure));
    failure = (struct shmworker_failure){.size = sizeof failure, .message = "m", .details_encoding = "\xff"};
    IN_HANDLER(INVALID_UTF8, shmworker_context_fail_with(context, &failure));
    IN_HANDLER(NULL_ARGUMENT, shmworker_context_fail(NULL, "Type", "message"));
    IN_HANDLER(NULL_ARGUMENT, shmworker_context_fail(context, NULL, NULL));
    IN_HANDLER(INVALID_UTF8, shmworker_context_fail(context, "\xff", "message"));
    IN_HANDLER(NULL_ARGUMENT, shmworker_context_fail_for_good(NULL, NULL, "message"));
    IN_HANDLER(NULL_ARGUMENT, shmworker_context_fail_for_good(context, NULL, NULL));
    IN_HANDLER(NULL_ARGUMENT, shmworker_context_heartbeat(NULL));
    IN_HANDLER(NULL_ARGUMENT, shmworker_context_progress(NULL, 1, 2));
    IN_HANDLER(OK, shmworker_context_progress(context, UINT64_MAX, 0));
    IN_HANDLER(NULL_ARGUMENT, shmworker_context_last_checkpoint(NULL, &input));
    IN_HANDLER(NOT_FOUND, shmworker_context_last_checkpoint(context, NULL));
    IN_HANDLER(NOT_FOUND, shmworker_context_last_checkpoint(context, &input));
    IN_HANDLER(NULL_ARGUMENT, shmworker_context_checkpoint(NULL, "", 0, NULL));
    IN_HANDLER(NULL_ARGUMENT, shmworker_context_checkpoint(context, NULL, 1, NULL));
    IN_HANDLER(TOO_LARGE, shmworker_context_checkpoint(context, "", SIZE_MAX, NULL));
    IN_HANDLER(INVALID_UTF8, shmworker_context_checkpoint(context, "", 0, "\xff"));
    IN_HANDLER(OK, shmworker_context_checkpoint(context, NULL, 0, NULL));
    const bool is_so = shmworker_context_info(NULL, SHMWORKER_INFO_NAME) == NULL &&
                       shmworker_context_info(context, 4711) == NULL && shmworker_context_attempt(NULL) == 0 && shmworker_context_argument_count(NULL) == 0 &&
                       !shmworker_context_is_cancelled(NULL) && !shmworker_context_is_worker_shutdown(NULL) &&
                       shmworker_context_time_left_ms(NULL) == -1 && shmworker_context_state(NULL) == NULL;
    return is_so ? 0 : __LINE__;
}

static int32_t echo(struct shmworker_context *context, void *user_data) {
    struct shmworker_payload input;
    const int line = misuses(context);
    (void)user_data;
    if (line != 0) {
        char text[64];
        snprintf(text, sizeof text, "line %d is not so", line);
        return shmworker_context_fail(context, "Misuse", text);
    }
    shmworker_context_argument(context, 0, &input);
    return shmworker_context_set_result(context, input.data, input.len, NULL);
}

// Runs until it is told to end.
static int32_t stay(struct shmworker_context *context, void *user_data) {
    (void)user_data;
    while (!shmworker_context_is_cancelled(context)) {
        usleep(1000);
    }
    return SHMWORKER_RESULT_CANCELLED;
}

static struct shmworker_pool *pool;

static void null_arguments(void) {
    struct shmworker_handlers *handlers;
    struct shmworker_task *task;
    struct shmworker_buffer *buffer;
    struct shmworker_outcome outcome = {.size = sizeof outcome};
    uint8_t *data;
    size_t len;
    int number;
    int32_t pid;
    EXPECT(NULL_ARGUMENT, shmworker_handlers_new(NULL));
    EXPECT(NULL_ARGUMENT, shmworker_handlers_add(NULL, "a", echo, NULL));
    EXPECT(NULL_ARGUMENT, shmworker_handlers_set_state(NULL, NULL, NULL, NULL));
    EXPECT(NULL_ARGUMENT, shmworker_handlers_free(NULL));
    EXPECT(OK, shmworker_handlers_new(&handlers));
    EXPECT(NULL_ARGUMENT, shmworker_handlers_add(handlers, NULL, echo, NULL));
    EXPECT(NULL_ARGUMENT, shmworker_handlers_add(handlers, "a", NULL, NULL));
    EXPECT(INVALID_ARGUMENT, shmworker_handlers_add(handlers, "", echo, NULL));
    EXPECT(INVALID_UTF8, shmworker_handlers_add(handlers, "\xff", echo, NULL));
    EXPECT(OK, shmworker_handlers_add(handlers, "a", echo, NULL));
    EXPECT(NAME_TAKEN, shmworker_handlers_add(handlers, "a", echo, NULL));
    EXPECT(NULL_ARGUMENT, shmworker_pool_fork(handlers, NULL, NULL));
    EXPECT(NULL_ARGUMENT, shmworker_pool_fork(NULL, NULL, &pool));
    EXPECT(NULL_ARGUMENT, shmworker_worker_run(handlers, NULL, NULL));
    EXPECT(NULL_ARGUMENT, shmworker_worker_run(NULL, NULL, &number));
    EXPECT(NOT_STARTED, shmworker_worker_run(handlers, NULL, &number));
    EXPECT(NOT_RUNNING, shmworker_worker_run(handlers, "no-such-pool", &number));
    EXPECT(OK, shmworker_handlers_free(handlers));
    EXPECT(NULL_ARGUMENT, shmworker_pool_exec(NULL, NULL, NULL, &pool));
    EXPECT_TRUE(pool == NULL);
    EXPECT(NULL_ARGUMENT, shmworker_pool_exec("/bin/true", NULL, NULL, NULL));
    EXPECT(NULL_ARGUMENT, shmworker_pool_attach(NULL, &pool));
    EXPECT(NULL_ARGUMENT, shmworker_pool_attach("a", NULL));
    EXPECT(NULL_ARGUMENT, shmworker_pool_submit(NULL, "echo", "", 0, NULL, &task));
    EXPECT_TRUE(task == NULL);
    EXPECT(NULL_ARGUMENT, shmworker_pool_submit(NULL, "echo", "", 0, NULL, NULL));
    EXPECT(NULL_ARGUMENT, shmworker_pool_try_submit(NULL, "echo", "", 0, NULL, &task));
    EXPECT(NULL_ARGUMENT, shmworker_pool_reserve(NULL, 1, &buffer));
    EXPECT(NULL_ARGUMENT, shmworker_pool_reserve(NULL, 1, NULL));
    EXPECT(NULL_ARGUMENT, shmworker_pool_try_reserve(NULL, 1, &buffer));
    EXPECT(NULL_ARGUMENT, shmworker_pool_event_fd(NULL, &number));
    EXPECT(NULL_ARGUMENT, shmworker_pool_event_fd(NULL, NULL));
    EXPECT(NULL_ARGUMENT, shmworker_pool_next_event(NULL, NULL, NULL));
    EXPECT(NULL_ARGUMENT, shmworker_pool_resize(NULL, 1));
    EXPECT(NULL_ARGUMENT, shmworker_pool_coordinator_pid(NULL, &pid));
    EXPECT(NULL_ARGUMENT, shmworker_pool_coordinator_pid(NULL, NULL));
    EXPECT(NULL_ARGUMENT, shmworker_pool_shutdown(NULL, 0));
    EXPECT(NULL_ARGUMENT, shmworker_pool_free(NULL));
    EXPECT(NULL_ARGUMENT, shmworker_buffer_data(NULL, &data, &len));
    EXPECT(NULL_ARGUMENT, shmworker_buffer_data(NULL, NULL, NULL));
    EXPECT(NULL_ARGUMENT, shmworker_buffer_submit(NULL, NULL, "echo", NULL, &task));
    EXPECT(NULL_ARGUMENT, shmworker_buffer_submit(NULL, NULL, "echo", NULL, NULL));
    EXPECT_TRUE(shmworker_host_handler(NULL, NULL, NULL, NULL) == SHMWORKER_RESULT_NULL_ARGUMENT);
    EXPECT_TRUE(shmworker_host_state(NULL, NULL, NULL, NULL) == SHMWORKER_RESULT_NULL_ARGUMENT);
    EXPECT_TRUE(shmworker_host_log(NULL, 0, NULL) == SHMWORKER_RESULT_NULL_ARGUMENT);
    EXPECT(NULL_ARGUMENT, shmworker_buffer_free(NULL));
    EXPECT(NULL_ARGUMENT, shmworker_task_wait(NULL, 0, &outcome));
    EXPECT(NULL_ARGUMENT, shmworker_task_wait(NULL, 0, NULL));
    EXPECT(NULL_ARGUMENT, shmworker_task_finish(NULL, 0, NULL, 0, &outcome));
    EXPECT(NULL_ARGUMENT, shmworker_task_finish(NULL, 0, NULL, 0, NULL));
    EXPECT(NULL_ARGUMENT, shmworker_task_notify(NULL, NULL));
    EXPECT(NULL_ARGUMENT, shmworker_task_cancel(NULL));
    EXPECT(NULL_ARGUMENT, shmworker_task_free(NULL));
    EXPECT_TRUE(shmworker_version()[0] != 0);
    EXPECT_TRUE(strcmp(shmworker_result_name(12345), "unknown") == 0);
}

// Of lanes that are none: whatever else is handed over is set to nothing.
static void lanes_that_are_none(int32_t code, struct shmworker_temporal *none) {
    uint32_t set = 9, slots = 9, found = 9, stage = SHMWORKER_TEMPORAL_STAGE_RUNNING;
    const uint8_t *data = (const uint8_t *)"";
    size_t len = 9;
    int32_t fd = 9;
    EXPECT_CODE(code, shmworker_temporal_lanes(none, &set, &slots));
    EXPECT_TRUE(set == 0 && slots == 0);
    EXPECT_CODE(code, shmworker_temporal_lanes(none, NULL, NULL));
    EXPECT_CODE(code, shmworker_temporal_hello(none, data, 1, &data, &len));
    EXPECT_TRUE(data == NULL && len == 0);
    EXPECT_CODE(code, shmworker_temporal_hello(none, NULL, 0, NULL, NULL));
    EXPECT_CODE(code, shmworker_temporal_fd(none, &fd));
    EXPECT_TRUE(fd == -1);
    EXPECT_CODE(code, shmworker_temporal_wait(none, SHMWORKER_TEMPORAL_LANE_WORKFLOW, -1));
    data = (const uint8_t *)"", len = 9;
    EXPECT_CODE(code, shmworker_temporal_next(none, SHMWORKER_TEMPORAL_LANE_WORKFLOW, &found, &data, &len));
    EXPECT_TRUE(found == SHMWORKER_TEMPORAL_FOUND_EMPTY && data == NULL && len == 0);
    EXPECT_CODE(code, shmworker_temporal_complete_workflow(none, NULL, 0));
    EXPECT_CODE(code, shmworker_temporal_complete_activity(none, NULL, 1));
    EXPECT_CODE(code, shmworker_temporal_heartbeat(none, NULL, SIZE_MAX));
    EXPECT_CODE(code, shmworker_temporal_request_eviction(none, NULL, 0));
    EXPECT_CODE(code, shmworker_temporal_stage_of(none, &stage));
    EXPECT_TRUE(stage == SHMWORKER_TEMPORAL_STAGE_STOPPED);
    EXPECT_CODE(code, shmworker_temporal_free(none));
}

static void temporal(void) {
    struct shmworker_temporal *lanes = (struct shmworker_temporal *)&lanes;
    struct shmworker_temporal_options options = {.size = sizeof options, .lanes = SHMWORKER_TEMPORAL_LANE_WORKFLOW};
    EXPECT(NULL_ARGUMENT, shmworker_temporal_attach(NULL, NULL));
    EXPECT(INVALID_ARGUMENT, shmworker_temporal_attach(&options, &lanes));
    EXPECT_TRUE(lanes == NULL);
    options.pool = "no-such-pool";
    EXPECT(REFUSED, shmworker_temporal_attach(&options, &lanes));
    options.lanes = SHMWORKER_TEMPORAL_LANE_ACTIVITY;
    EXPECT(INVALID_ARGUMENT, shmworker_temporal_attach(&options, &lanes));
    EXPECT_TEXT("activity_slots is 0");
    options.lanes = 4;
    EXPECT(INVALID_ARGUMENT, shmworker_temporal_attach(&options, &lanes));
    options.lanes = SHMWORKER_TEMPORAL_LANE_WORKFLOW;
    options.reserved = 1;
    EXPECT(INVALID_ARGUMENT, shmworker_temporal_attach(&options, &lanes));
    EXPECT_TEXT("options.reserved is 1");
    options.reserved = 0;
    options.size = 8;
    EXPECT(INVALID_ARGUMENT, shmworker_temporal_attach(&options, &lanes));
    EXPECT(REFUSED, shmworker_temporal_attach(NULL, &lanes));
    EXPECT_TRUE(lanes == NULL);
    EXPECT(NULL_ARGUMENT, shmworker_temporal_fd(NULL, NULL));
    EXPECT(NULL_ARGUMENT, shmworker_temporal_next(NULL, 1, NULL, NULL, NULL));
    EXPECT(NULL_ARGUMENT, shmworker_temporal_stage_of(NULL, NULL));
    lanes_that_are_none(SHMWORKER_RESULT_NULL_ARGUMENT, NULL);
    lanes_that_are_none(SHMWORKER_RESULT_STALE_HANDLE, (struct shmworker_temporal *)&lanes);
    lanes_that_are_none(SHMWORKER_RESULT_STALE_HANDLE, (struct shmworker_temporal *)UINTPTR_MAX);
}

// Of lanes that are attached, to a pool that has the queues of one which serves Temporal.
static void live_lanes(const struct shmworker_handlers *handlers) {
    char name[32];
    const char *queues[] = {"workflow", "activity", "bridge"};
    struct shmworker_pool_options of_pool = {.size = sizeof of_pool, .name = name, .workers = 1};
    struct shmworker_temporal_options options = {.size = sizeof options, .pool = name};
    struct shmworker_pool *other;
    struct shmworker_temporal *lanes;
    const uint8_t *data, byte = 0;
    uint32_t found, stage;
    size_t len;
    int32_t fd;
    int status;
    snprintf(name, sizeof name, "ffi-misuse-%d", (int)getpid());
    of_pool.queues = queues, of_pool.queue_count = 3;
    options.lanes = SHMWORKER_TEMPORAL_LANE_WORKFLOW;
    EXPECT(OK, shmworker_pool_fork(handlers, &of_pool, &other));
    EXPECT(OK, shmworker_temporal_attach(&options, &lanes));
    EXPECT(OK, shmworker_temporal_lanes(lanes, NULL, NULL));
    EXPECT(NULL_ARGUMENT, shmworker_temporal_hello(lanes, NULL, 1, &data, &len));
    EXPECT(TOO_LARGE, shmworker_temporal_hello(lanes, &byte, SIZE_MAX, &data, &len));
    EXPECT(NULL_ARGUMENT, shmworker_temporal_fd(lanes, NULL));
    EXPECT(OK, shmworker_temporal_fd(lanes, &fd));
    EXPECT(INVALID_ARGUMENT, shmworker_temporal_wait(lanes, 0, -1));
    EXPECT(INVALID_ARGUMENT, shmworker_temporal_wait(lanes, UINT32_MAX, -1));
    EXPECT(INVALID_ARGUMENT, shmworker_temporal_wait(lanes, SHMWORKER_TEMPORAL_LANE_ACTIVITY, -1));
    EXPECT(NULL_ARGUMENT, shmworker_temporal_next(lanes, SHMWORKER_TEMPORAL_LANE_WORKFLOW, NULL, &data, &len));
    EXPECT(NULL_ARGUMENT, shmworker_temporal_next(lanes, SHMWORKER_TEMPORAL_LANE_WORKFLOW, &found, NULL, &len));
    EXPECT(NULL_ARGUMENT, shmworker_temporal_next(lanes, SHMWORKER_TEMPORAL_LANE_WORKFLOW, &found, &data, NULL));
    EXPECT(INVALID_ARGUMENT, shmworker_temporal_next(lanes, 0, &found, &data, &len));
    EXPECT(INVALID_ARGUMENT, shmworker_temporal_next(lanes, SHMWORKER_TEMPORAL_LANE_ACTIVITY, &found, &data, &len));
    EXPECT(WRONG_TIME, shmworker_temporal_next(lanes, SHMWORKER_TEMPORAL_LANE_WORKFLOW, &found, &data, &len));
    EXPECT(NULL_ARGUMENT, shmworker_temporal_complete_workflow(lanes, NULL, 1));
    EXPECT(TOO_LARGE, shmworker_temporal_complete_workflow(lanes, &byte, SIZE_MAX));
    EXPECT(INVALID_ARGUMENT, shmworker_temporal_complete_workflow(lanes, NULL, 0));
    EXPECT(NULL_ARGUMENT, shmworker_temporal_complete_activity(lanes, NULL, 1));
    EXPECT(TOO_LARGE, shmworker_temporal_complete_activity(lanes, &byte, SIZE_MAX));
    EXPECT(INVALID_ARGUMENT, shmworker_temporal_complete_activity(lanes, NULL, 0));
    EXPECT(NULL_ARGUMENT, shmworker_temporal_heartbeat(lanes, NULL, 1));
    EXPECT(TOO_LARGE, shmworker_temporal_heartbeat(lanes, &byte, SIZE_MAX));
    EXPECT(INVALID_ARGUMENT, shmworker_temporal_heartbeat(lanes, NULL, 0));
    EXPECT(NULL_ARGUMENT, shmworker_temporal_request_eviction(lanes, NULL, 1));
    EXPECT(TOO_LARGE, shmworker_temporal_request_eviction(lanes, &byte, SIZE_MAX));
    EXPECT(NOT_FOUND, shmworker_temporal_request_eviction(lanes, NULL, 0));
    EXPECT(NULL_ARGUMENT, shmworker_temporal_stage_of(lanes, NULL));
    EXPECT(OK, shmworker_temporal_stage_of(lanes, &stage));
    EXPECT_TRUE(stage == SHMWORKER_TEMPORAL_STAGE_RUNNING);
    pid_t child = fork();
    if (child == 0) {
        lanes_that_are_none(SHMWORKER_RESULT_STALE_HANDLE, lanes);
        _exit(0);
    }
    EXPECT_TRUE(child > 0 && waitpid(child, &status, 0) == child && status == 0);
    // Its pool ends.
    EXPECT(OK, shmworker_pool_free(other));
    EXPECT(OK, shmworker_temporal_wait(lanes, SHMWORKER_TEMPORAL_LANE_WORKFLOW, -1));
    EXPECT(OK, shmworker_temporal_stage_of(lanes, &stage));
    EXPECT_TRUE(stage == SHMWORKER_TEMPORAL_STAGE_STOPPED);
    EXPECT(OK, shmworker_temporal_free(lanes));
    lanes_that_are_none(SHMWORKER_RESULT_STALE_HANDLE, lanes);
}

static void options(const struct shmworker_handlers *handlers) {
    struct shmworker_pool_options options = {.size = sizeof options, .workers = 1000000};
    struct shmworker_pool *other;
    EXPECT(INVALID_ARGUMENT, shmworker_pool_fork(handlers, &options, &other));
    EXPECT_TEXT("workers is 1000000");
    options = (struct shmworker_pool_options){.size = sizeof options, .queue_count = SIZE_MAX};
    EXPECT(INVALID_ARGUMENT, shmworker_pool_fork(handlers, &options, &other));
    options = (struct shmworker_pool_options){.size = sizeof options, .queue_count = 2};
    EXPECT(NULL_ARGUMENT, shmworker_pool_fork(handlers, &options, &other));
    options = (struct shmworker_pool_options){.size = sizeof options, .queues = (const char *[]){"a", "a"}, .queue_count = 2};
    EXPECT(INVALID_ARGUMENT, shmworker_pool_fork(handlers, &options, &other));
    EXPECT_TEXT("two of options.queues are \"a\"");
    options = (struct shmworker_pool_options){.size = sizeof options, .queues = (const char *[]){"a", NULL}, .queue_count = 2};
    EXPECT(NULL_ARGUMENT, shmworker_pool_fork(handlers, &options, &other));
    options = (struct shmworker_pool_options){.size = sizeof options, .slots = 1025};
    EXPECT(INVALID_ARGUMENT, shmworker_pool_fork(handlers, &options, &other));
    EXPECT_TEXT("slots is 1025");
    options = (struct shmworker_pool_options){.size = sizeof options, .max_workers = SIZE_MAX};
    EXPECT(INVALID_ARGUMENT, shmworker_pool_fork(handlers, &options, &other));
    options = (struct shmworker_pool_options){.size = sizeof options, .reserved = 1};
    EXPECT(INVALID_ARGUMENT, shmworker_pool_fork(handlers, &options, &other));
    options = (struct shmworker_pool_options){.size = sizeof options, .name = "no/name"};
    EXPECT(NOT_STARTED, shmworker_pool_fork(handlers, &options, &other));
    EXPECT_TEXT("no/name");
    options = (struct shmworker_pool_options){.size = sizeof options, .reserve = 7};
    EXPECT(INVALID_ARGUMENT, shmworker_pool_fork(handlers, &options, &other));
    options = (struct shmworker_pool_options){.size = 0};
    EXPECT(INVALID_ARGUMENT, shmworker_pool_fork(handlers, &options, &other));
    options = (struct shmworker_pool_options){.size = sizeof options + 8};
    EXPECT(UNSUPPORTED, shmworker_pool_fork(handlers, &options, &other));
    EXPECT(OS_ERROR, shmworker_pool_exec("/no/such/program", NULL, NULL, &other));
    EXPECT_TEXT("/no/such/program");
    EXPECT(NOT_STARTED, shmworker_pool_exec("/bin/true", NULL, NULL, &other));
    EXPECT_TEXT("shmworker_worker_run");
    EXPECT_TRUE(!strstr(shmworker_last_error(), "::"));
    options = (struct shmworker_pool_options){.size = sizeof options, .workers = 1, .start_timeout_ms = 1};
    EXPECT(NOT_STARTED, shmworker_pool_exec("/bin/sleep", (const char *[]){"100", NULL}, &options, &other));
    EXPECT_TEXT("shmworker_worker_run");
    options.start_timeout_ms = 0;
    EXPECT(NOT_STARTED, shmworker_pool_exec("/proc/self/exe", (const char *[]){"with a thread", NULL}, &options, &other));
    EXPECT_TEXT("shmworker_worker_run");
    EXPECT(NOT_RUNNING, shmworker_pool_attach("no-such-pool", &other));
    EXPECT(INVALID_ARGUMENT, shmworker_pool_attach("no/name", &other));
    EXPECT_TEXT("no/name");
    EXPECT_TRUE(other == NULL);
}

// What was compiled with an older header, which had less of each struct, and with one of another major number.
static void versions(const struct shmworker_handlers *handlers) {
    struct shmworker_pool_options options = {.size = offsetof(struct shmworker_pool_options, max_memory), .workers = 1};
    struct shmworker_task_options task_options = {.size = offsetof(struct shmworker_task_options, max_worker_deaths)};
    struct shmworker_outcome outcome = {.size = offsetof(struct shmworker_outcome, pid), .signal = 77};
    struct shmworker_pool *other;
    struct shmworker_task *task;
    // Behind what they had there may be anything.
    options.reserved = 1;
    task_options.reserved = 1;
    EXPECT(OK, shmworker_pool_fork(handlers, &options, &other));
    EXPECT(OK, shmworker_pool_submit(other, "echo", "abc", 3, &task_options, &task));
    EXPECT(OK, shmworker_task_wait(task, -1, &outcome));
    EXPECT_TRUE(outcome.code == SHMWORKER_RESULT_OK && outcome.len == 3 && outcome.signal == 77);
    EXPECT(OK, shmworker_task_free(task));
    EXPECT(OK, shmworker_pool_free(other));
    EXPECT(OK, shmworker_check_abi(SHMWORKER_ABI_MAJOR, 0));
    EXPECT(ABI_MISMATCH, shmworker_check_abi(SHMWORKER_ABI_MAJOR + 1, 0));
    EXPECT_TEXT("compile it with the header of this library");
    EXPECT(UNSUPPORTED, shmworker_check_abi(SHMWORKER_ABI_MAJOR, SHMWORKER_ABI_MINOR + 1));
}

static void lengths(void) {
    struct shmworker_task *task;
    struct shmworker_buffer *buffer;
    struct shmworker_outcome outcome = {.size = sizeof outcome};
    uint8_t *data;
    size_t len;
    EXPECT(OK, shmworker_pool_submit(pool, "echo", NULL, 0, NULL, &task));
    EXPECT(OK, shmworker_task_wait(task, -1, &outcome));
    EXPECT_TRUE(outcome.code == SHMWORKER_RESULT_OK && outcome.len == 0 && outcome.attempts == 1 && outcome.pid != 0);
    EXPECT(OK, shmworker_task_wait(task, 0, &outcome));
    EXPECT(INVALID_ARGUMENT, shmworker_task_wait(task, 0, &(struct shmworker_outcome){.size = 3}));
    EXPECT(UNSUPPORTED, shmworker_task_wait(task, 0, &(struct shmworker_outcome){.size = SIZE_MAX}));
    EXPECT(OK, shmworker_task_free(task));
    EXPECT(NULL_ARGUMENT, shmworker_pool_submit(pool, "echo", NULL, 1, NULL, &task));
    EXPECT(TOO_LARGE, shmworker_pool_submit(pool, "echo", "", SIZE_MAX, NULL, &task));
    EXPECT(NULL_ARGUMENT, shmworker_pool_submit(pool, NULL, "", 0, NULL, &task));
    EXPECT(NULL_ARGUMENT, shmworker_pool_submit(pool, "echo", "", 0, NULL, NULL));
    EXPECT(NULL_ARGUMENT, shmworker_pool_try_submit(pool, "echo", NULL, 1, NULL, &task));
    EXPECT(TOO_LARGE, shmworker_pool_try_submit(pool, "echo", "", SIZE_MAX, NULL, &task));
    EXPECT(NULL_ARGUMENT, shmworker_pool_try_submit(pool, NULL, "", 0, NULL, &task));
    EXPECT(NULL_ARGUMENT, shmworker_pool_try_submit(pool, "echo", "", 0, NULL, NULL));
    EXPECT(INVALID_UTF8, shmworker_pool_submit(pool, "\xff", "", 0, NULL, &task));
    EXPECT(TASK_UNKNOWN, shmworker_pool_submit(pool, "ehco", "", 0, NULL, &task));
    EXPECT_TEXT("echo");
    struct shmworker_task_options options = {.size = sizeof options, .queue = "urgnet"};
    EXPECT(NOT_FOUND, shmworker_pool_submit(pool, "echo", "", 0, &options, &task));
    options = (struct shmworker_task_options){.size = sizeof options, .max_attempts = 256};
    EXPECT(INVALID_ARGUMENT, shmworker_pool_submit(pool, "echo", "", 0, &options, &task));
    options = (struct shmworker_task_options){.size = sizeof options, .retry_on = 1u << 31};
    EXPECT(INVALID_ARGUMENT, shmworker_pool_submit(pool, "echo", "", 0, &options, &task));
    options = (struct shmworker_task_options){.size = sizeof options, .reserved = 1};
    EXPECT(INVALID_ARGUMENT, shmworker_pool_submit(pool, "echo", "", 0, &options, &task));
    options = (struct shmworker_task_options){.size = sizeof options, .max_worker_deaths = UINT32_MAX};
    EXPECT(INVALID_ARGUMENT, shmworker_pool_submit(pool, "echo", "", 0, &options, &task));
    // Times that no clock will see are no limits.
    options = (struct shmworker_task_options){.size = sizeof options, .max_attempts = 255, .backoff_ms = UINT64_MAX,
                                              .max_backoff_ms = UINT64_MAX, .timeout_ms = UINT64_MAX, .grace_ms = UINT64_MAX,
                                              .heartbeat_timeout_ms = UINT64_MAX, .expires_in_ms = UINT64_MAX};
    EXPECT(OK, shmworker_pool_submit(pool, "echo", "", 0, &options, &task));
    EXPECT(OK, shmworker_task_wait(task, INT64_MAX, &outcome));
    EXPECT_TRUE(outcome.code == SHMWORKER_RESULT_OK);
    EXPECT(OK, shmworker_task_free(task));
    options = (struct shmworker_task_options){.size = 8};
    EXPECT(INVALID_ARGUMENT, shmworker_pool_submit(pool, "echo", "", 0, &options, &task));
    EXPECT(TOO_LARGE, shmworker_pool_reserve(pool, SIZE_MAX, &buffer));
    EXPECT(TOO_LARGE, shmworker_pool_try_reserve(pool, SIZE_MAX, &buffer));
    EXPECT(NULL_ARGUMENT, shmworker_pool_try_reserve(pool, 0, NULL));
    EXPECT_TRUE(buffer == NULL);
    EXPECT(OK, shmworker_pool_reserve(pool, 0, &buffer));
    EXPECT(OK, shmworker_buffer_data(buffer, &data, &len));
    EXPECT_TRUE(len == 0);
    EXPECT(NULL_ARGUMENT, shmworker_buffer_data(buffer, NULL, &len));
    EXPECT(NULL_ARGUMENT, shmworker_buffer_data(buffer, &data, NULL));
    EXPECT(NULL_ARGUMENT, shmworker_buffer_submit(buffer, pool, NULL, NULL, &task));
    EXPECT(NULL_ARGUMENT, shmworker_buffer_submit(buffer, pool, "echo", NULL, NULL));
    EXPECT(NULL_ARGUMENT, shmworker_buffer_submit(buffer, NULL, "echo", NULL, &task));
    EXPECT(INVALID_ARGUMENT, shmworker_buffer_submit(buffer, pool, "echo", &(struct shmworker_task_options){.size = 1}, &task));
    EXPECT(TASK_UNKNOWN, shmworker_buffer_submit(buffer, pool, "ehco", NULL, &task));
    EXPECT(WRONG_TIME, shmworker_buffer_submit(buffer, pool, "echo", NULL, &task));
    EXPECT(WRONG_TIME, shmworker_buffer_data(buffer, &data, &len));
    EXPECT(OK, shmworker_buffer_free(buffer));
    EXPECT(OK, shmworker_pool_reserve(pool, 5, &buffer));
    EXPECT(OK, shmworker_buffer_data(buffer, &data, &len));
    memcpy(data, "bytes", len);
    EXPECT(OK, shmworker_buffer_submit(buffer, pool, "echo", NULL, &task));
    EXPECT(STALE_HANDLE, shmworker_buffer_free(buffer));
    EXPECT(OK, shmworker_task_wait(task, -1, &outcome));
    EXPECT_TRUE(outcome.len == 5 && memcmp(outcome.data, "bytes", 5) == 0);
    EXPECT(OK, shmworker_task_free(task));
}

// Waits, copies and frees, or leaves the task as it was.
static void finishes(void) {
    static uint8_t large[1 << 20], copy[sizeof large];
    struct shmworker_task *task;
    struct shmworker_outcome outcome = {.size = sizeof outcome};
    EXPECT(OK, shmworker_pool_submit(pool, "echo", "copied", 6, NULL, &task));
    EXPECT(NULL_ARGUMENT, shmworker_task_finish(task, -1, copy, sizeof copy, NULL));
    EXPECT(NULL_ARGUMENT, shmworker_task_finish(task, -1, NULL, 1, &outcome));
    EXPECT(INVALID_ARGUMENT, shmworker_task_finish(task, -1, copy, SIZE_MAX, &outcome));
    EXPECT(INVALID_ARGUMENT, shmworker_task_finish(task, -1, copy, 1, &(struct shmworker_outcome){.size = 3}));
    EXPECT(OK, shmworker_task_finish(task, -1, copy, sizeof copy, &outcome));
    EXPECT_TRUE(outcome.code == SHMWORKER_RESULT_OK && outcome.message[0] == 0 && outcome.attempts == 1 && outcome.pid != 0);
    EXPECT_TRUE(outcome.data == copy && outcome.len == 6 && memcmp(copy, "copied", 6) == 0);
    EXPECT(STALE_HANDLE, shmworker_task_finish(task, -1, copy, sizeof copy, &outcome));
    EXPECT(STALE_HANDLE, shmworker_task_free(task));

    // Too little room, first for what a descriptor holds, then for what a block does.
    for (size_t len = 6; len <= sizeof large; len = len == 6 ? sizeof large : SIZE_MAX) {
        memset(large, (int)(len % 100 + 1), len);
        EXPECT(OK, shmworker_pool_submit(pool, "echo", large, len, NULL, &task));
        EXPECT(TOO_LARGE, shmworker_task_finish(task, -1, copy, len - 1, &outcome));
        EXPECT_TEXT("has room for");
        EXPECT_TRUE(outcome.len == len && memcmp(outcome.data, large, len) == 0);
        EXPECT(TOO_LARGE, shmworker_task_finish(task, 0, NULL, 0, &outcome));
        EXPECT(OK, shmworker_task_wait(task, 0, &outcome));
        EXPECT_TRUE(outcome.len == len && memcmp(outcome.data, large, len) == 0);
        EXPECT(OK, shmworker_task_finish(task, 0, copy, len, &outcome));
        EXPECT_TRUE(outcome.data == copy && outcome.len == len && memcmp(copy, large, len) == 0);
        EXPECT(STALE_HANDLE, shmworker_task_free(task));
    }

    // One that is not over yet stays, and what became of it is said.
    EXPECT(OK, shmworker_pool_submit(pool, "stay", NULL, 0, NULL, &task));
    EXPECT(NOT_READY, shmworker_task_finish(task, 0, NULL, 0, &outcome));
    EXPECT(NOT_READY, shmworker_task_finish(task, 1, NULL, 0, &outcome));
    EXPECT(OK, shmworker_task_cancel(task));
    EXPECT(OK, shmworker_task_finish(task, -1, NULL, 0, &outcome));
    EXPECT_TRUE(outcome.code == SHMWORKER_RESULT_TASK_CANCELLED && outcome.message == shmworker_last_error());
    EXPECT_TRUE(strstr(outcome.message, "cancelled") && outcome.len == 0);
    EXPECT(STALE_HANDLE, shmworker_task_free(task));
}

static void stale_handles(void) {
    struct shmworker_task *task, *another;
    struct shmworker_buffer *buffer;
    struct shmworker_outcome outcome = {.size = sizeof outcome};
    int on_the_stack = 0;
    EXPECT(OK, shmworker_pool_submit(pool, "echo", "a", 1, NULL, &task));
    EXPECT(STALE_HANDLE, shmworker_pool_free((struct shmworker_pool *)(void *)task));
    EXPECT(OK, shmworker_task_free(task));
    EXPECT(STALE_HANDLE, shmworker_task_free(task));
    EXPECT(STALE_HANDLE, shmworker_task_wait(task, 0, &outcome));
    EXPECT(STALE_HANDLE, shmworker_task_finish(task, 0, NULL, 0, &outcome));
    EXPECT(STALE_HANDLE, shmworker_task_cancel(task));
    EXPECT(STALE_HANDLE, shmworker_task_notify(task, NULL));
    // Another in its place is not it.
    EXPECT(OK, shmworker_pool_submit(pool, "echo", "b", 1, NULL, &another));
    EXPECT(STALE_HANDLE, shmworker_task_free(task));
    EXPECT(OK, shmworker_task_free(another));
    EXPECT(OK, shmworker_pool_reserve(pool, 1, &buffer));
    EXPECT(OK, shmworker_buffer_free(buffer));
    EXPECT(STALE_HANDLE, shmworker_buffer_free(buffer));
    EXPECT(STALE_HANDLE, shmworker_buffer_data(buffer, &(uint8_t *){NULL}, &(size_t){0}));
    EXPECT(STALE_HANDLE, shmworker_task_free((struct shmworker_task *)(void *)&on_the_stack));
    EXPECT(STALE_HANDLE, shmworker_task_free((struct shmworker_task *)(uintptr_t)UINTPTR_MAX));
    EXPECT(STALE_HANDLE, shmworker_pool_submit((struct shmworker_pool *)(uintptr_t)1, "echo", "", 0, NULL, &task));
}

static void *wait_on(void *task) {
    struct shmworker_outcome outcome = {.size = sizeof outcome};
    int32_t code;
    // The other thread may look just now.
    while ((code = shmworker_task_wait(task, -1, &outcome)) == SHMWORKER_RESULT_BUSY) {
    }
    EXPECT(OK, code);
    EXPECT_TRUE(outcome.code == SHMWORKER_RESULT_TASK_CANCELLED);
    return NULL;
}

static void *submit_many(void *unused) {
    for (int i = 0; i < 500; i++) {
        struct shmworker_task *task;
        struct shmworker_outcome outcome = {.size = sizeof outcome};
        int copy;
        EXPECT(OK, shmworker_pool_submit(pool, "echo", &i, sizeof i, NULL, &task));
        if (i % 2 == 0) {
            EXPECT(OK, shmworker_task_finish(task, -1, &copy, sizeof copy, &outcome));
            EXPECT_TRUE(outcome.len == sizeof i && copy == i);
            continue;
        }
        EXPECT(OK, shmworker_task_wait(task, -1, &outcome));
        EXPECT_TRUE(outcome.len == sizeof i && memcmp(outcome.data, &i, sizeof i) == 0);
        EXPECT(OK, shmworker_task_free(task));
    }
    return unused;
}

static struct shmworker_task *shared;

static void *free_it(void *ok) {
    *(int *)ok = shmworker_task_free(shared) == SHMWORKER_RESULT_OK;
    return NULL;
}

// The other is about to free it, and may be faster at any point of this.
static void *finish_it(void *ok) {
    struct shmworker_outcome outcome = {.size = sizeof outcome};
    const int32_t code = shmworker_task_finish(shared, -1, NULL, 0, &outcome);
    EXPECT_TRUE(code == SHMWORKER_RESULT_OK || code == SHMWORKER_RESULT_STALE_HANDLE);
    *(int *)ok = code == SHMWORKER_RESULT_OK;
    return NULL;
}

// Buffers for all the room that there is: an error, and not a wait for oneself.
static void reserves_everything(void) {
    static struct shmworker_buffer *buffers[1 << 16];
    struct shmworker_task *task;
    size_t n = 0;
    int32_t code;
    while ((code = shmworker_pool_reserve(pool, 8, &buffers[n])) == SHMWORKER_RESULT_OK) {
        EXPECT_TRUE(++n < sizeof buffers / sizeof *buffers);
    }
    EXPECT(NO_SPACE, code);
    EXPECT_TEXT("submit or drop some of them");
    EXPECT(NO_SPACE, shmworker_pool_submit(pool, "echo", "", 0, NULL, &task));
    while (n > 0) {
        EXPECT(OK, shmworker_buffer_free(buffers[--n]));
    }
}

// All that may be under way, from a loop that must not wait: an error, and room again once something has ended.
static void submits_until_there_is_no_room(void) {
    static struct shmworker_task *tasks[1 << 16];
    struct shmworker_buffer *buffer;
    struct shmworker_outcome outcome = {.size = sizeof outcome};
    struct pollfd ended = {.events = POLLIN};
    size_t n = 0;
    int32_t code;
    while ((code = shmworker_pool_try_submit(pool, "stay", "", 0, NULL, &tasks[n])) == SHMWORKER_RESULT_OK) {
        EXPECT_TRUE(++n < sizeof tasks / sizeof *tasks);
    }
    EXPECT(NO_SPACE, code);
    EXPECT_TRUE(tasks[n] == NULL);
    EXPECT(NO_SPACE, shmworker_pool_try_reserve(pool, 1, &buffer));
    EXPECT(OK, shmworker_task_notify(tasks[0], NULL));
    EXPECT(OK, shmworker_task_cancel(tasks[0]));
    EXPECT(OK, shmworker_pool_event_fd(pool, &ended.fd));
    EXPECT_TRUE(poll(&ended, 1, -1) == 1);
    EXPECT(OK, shmworker_pool_next_event(pool, NULL, NULL));
    EXPECT(OK, shmworker_pool_try_reserve(pool, 1, &buffer));
    EXPECT(OK, shmworker_buffer_free(buffer));
    for (size_t i = 0; i < n; i++) {
        EXPECT(OK, shmworker_task_cancel(tasks[i]));
    }
    while (n > 0) {
        EXPECT(OK, shmworker_task_wait(tasks[--n], -1, &outcome));
        EXPECT(OK, shmworker_task_free(tasks[n]));
    }
}

static void threads(void) {
    pthread_t one, two;
    struct shmworker_task *task;
    struct shmworker_outcome outcome = {.size = sizeof outcome};
    int freed[2];
    int32_t code;
    EXPECT(OK, shmworker_pool_submit(pool, "stay", NULL, 0, NULL, &task));
    EXPECT(NOT_READY, shmworker_task_wait(task, 0, &outcome));
    EXPECT(NOT_READY, shmworker_task_wait(task, 1, &outcome));
    EXPECT_TRUE(pthread_create(&one, NULL, wait_on, task) == 0);
    while ((code = shmworker_task_wait(task, 0, &outcome)) == SHMWORKER_RESULT_NOT_READY) {
    }
    EXPECT(BUSY, code);
    EXPECT(BUSY, shmworker_task_notify(task, NULL));
    EXPECT(OK, shmworker_task_cancel(task));
    EXPECT_TRUE(pthread_join(one, NULL) == 0);
    EXPECT(OK, shmworker_task_cancel(task));
    EXPECT(OK, shmworker_task_free(task));

    EXPECT_TRUE(pthread_create(&one, NULL, submit_many, NULL) == 0);
    EXPECT_TRUE(pthread_create(&two, NULL, submit_many, NULL) == 0);
    EXPECT_TRUE(pthread_join(one, NULL) == 0 && pthread_join(two, NULL) == 0);

    for (int i = 0; i < 200; i++) {
        EXPECT(OK, shmworker_pool_submit(pool, "echo", "", 0, NULL, &shared));
        EXPECT_TRUE(pthread_create(&one, NULL, free_it, &freed[0]) == 0);
        EXPECT_TRUE(pthread_create(&two, NULL, free_it, &freed[1]) == 0);
        EXPECT_TRUE(pthread_join(one, NULL) == 0 && pthread_join(two, NULL) == 0);
        EXPECT_TRUE(freed[0] + freed[1] == 1);
    }
    for (int i = 0; i < 200; i++) {
        EXPECT(OK, shmworker_pool_submit(pool, "echo", "", 0, NULL, &shared));
        EXPECT_TRUE(pthread_create(&one, NULL, finish_it, &freed[0]) == 0);
        EXPECT_TRUE(pthread_create(&two, NULL, free_it, &freed[1]) == 0);
        EXPECT_TRUE(pthread_join(one, NULL) == 0 && pthread_join(two, NULL) == 0);
        EXPECT_TRUE(freed[0] || freed[1]); // both: it was freed while the result was copied
    }
}

static void events(void) {
    struct shmworker_task *task, *told;
    void *note;
    int fd, again;
    EXPECT(OK, shmworker_pool_event_fd(pool, &fd));
    EXPECT(OK, shmworker_pool_event_fd(pool, &again));
    EXPECT_TRUE(fd == again && fd > 2);
    EXPECT(NOT_READY, shmworker_pool_next_event(pool, &told, &note));
    EXPECT_TRUE(told == NULL && note == NULL);
    EXPECT(OK, shmworker_pool_submit(pool, "echo", "", 0, NULL, &task));
    EXPECT(OK, shmworker_task_wait(task, -1, &(struct shmworker_outcome){.size = sizeof(struct shmworker_outcome)}));
    EXPECT(OK, shmworker_task_notify(task, &fd)); // it has ended by now
    EXPECT(WRONG_TIME, shmworker_task_notify(task, &fd));
    EXPECT(OK, shmworker_pool_next_event(pool, &told, &note));
    EXPECT_TRUE(told == task && note == &fd);
    EXPECT(NOT_READY, shmworker_pool_next_event(pool, NULL, NULL));
    EXPECT(OK, shmworker_task_free(task));
    EXPECT(OK, shmworker_pool_submit(pool, "echo", "", 0, NULL, &task));
    EXPECT(OK, shmworker_task_wait(task, -1, &(struct shmworker_outcome){.size = sizeof(struct shmworker_outcome)}));
    EXPECT(OK, shmworker_task_notify(task, NULL));
    EXPECT(OK, shmworker_task_free(task)); // and so nobody is told of it
    EXPECT(NOT_READY, shmworker_pool_next_event(pool, NULL, NULL));
    EXPECT(OK, shmworker_pool_submit(pool, "echo", "", 0, NULL, &task));
    EXPECT(OK, shmworker_task_notify(task, NULL));
    EXPECT(OK, shmworker_task_finish(task, -1, NULL, 0, &(struct shmworker_outcome){.size = sizeof(struct shmworker_outcome)}));
    EXPECT(NOT_READY, shmworker_pool_next_event(pool, NULL, NULL)); // nor of this one
}

static void in_a_fork(struct shmworker_handlers *of_parent) {
    struct shmworker_task *task;
    int status;
    EXPECT(OK, shmworker_pool_submit(pool, "echo", "", 0, NULL, &task));
    pid_t child = fork();
    if (child == 0) {
        struct shmworker_task *of_child;
        struct shmworker_handlers *handlers;
        EXPECT(STALE_HANDLE, shmworker_pool_submit(pool, "echo", "", 0, NULL, &of_child));
        EXPECT(STALE_HANDLE, shmworker_task_free(task));
        EXPECT(STALE_HANDLE, shmworker_pool_free(pool));
        // What it makes itself is none of its parent's, however often.
        for (int i = 0; i < 10; i++) {
            EXPECT(OK, shmworker_handlers_new(&handlers));
            EXPECT(STALE_HANDLE, shmworker_handlers_add(of_parent, "b", echo, NULL));
            EXPECT(STALE_HANDLE, shmworker_handlers_free(of_parent));
            EXPECT(OK, shmworker_handlers_free(handlers));
        }
        _exit(0);
    }
    EXPECT_TRUE(child > 0 && waitpid(child, &status, 0) == child && status == 0);
    EXPECT(OK, shmworker_task_free(task));
}

static void after_shutdown(const struct shmworker_handlers *handlers) {
    struct shmworker_task *task, *before;
    struct shmworker_buffer *buffer;
    struct shmworker_outcome outcome = {.size = sizeof outcome};
    struct shmworker_pool *another;
    int fd;
    int32_t pid;
    EXPECT(OK, shmworker_pool_submit(pool, "echo", "last", 4, NULL, &before));
    EXPECT(OK, shmworker_pool_reserve(pool, 4, &buffer));
    EXPECT(OK, shmworker_pool_coordinator_pid(pool, &pid));
    EXPECT_TRUE(pid > 0);
    EXPECT(REFUSED, shmworker_pool_resize(pool, 0));
    EXPECT(OK, shmworker_pool_resize(pool, 1));
    EXPECT(HAS_THREADS, (shmworker_pool_event_fd(pool, &fd), shmworker_task_notify(before, NULL),
                         shmworker_pool_fork(handlers, NULL, &another)));
    EXPECT(OK, shmworker_pool_shutdown(pool, 10000));
    EXPECT(POOL_ENDED, shmworker_pool_shutdown(pool, 10000));
    EXPECT(POOL_ENDED, shmworker_pool_submit(pool, "echo", "", 0, NULL, &task));
    EXPECT(POOL_ENDED, shmworker_pool_resize(pool, 1));
    EXPECT(POOL_ENDED, shmworker_pool_event_fd(pool, &fd));
    EXPECT(POOL_ENDED, shmworker_pool_coordinator_pid(pool, &pid));
    EXPECT(POOL_ENDED, shmworker_buffer_submit(buffer, pool, "echo", NULL, &task));
    EXPECT(OK, shmworker_task_wait(before, 0, &outcome));
    EXPECT_TRUE(outcome.code == SHMWORKER_RESULT_OK && outcome.len == 4 && memcmp(outcome.data, "last", 4) == 0);
    EXPECT(OK, shmworker_buffer_free(buffer));
    EXPECT(OK, shmworker_pool_free(pool));
    EXPECT(STALE_HANDLE, shmworker_pool_free(pool));
    EXPECT(OK, shmworker_task_cancel(before));
    EXPECT(OK, shmworker_task_free(before));
}

static void *stays(void *unused) {
    pause();
    return unused;
}

// A worker program that begins with a thread.
static int too_late(void) {
    struct shmworker_handlers *handlers;
    pthread_t thread;
    int exit_code;
    EXPECT_TRUE(pthread_create(&thread, NULL, stays, NULL) == 0);
    EXPECT(OK, shmworker_handlers_new(&handlers));
    EXPECT(OK, shmworker_worker_run(handlers, NULL, &exit_code));
    return exit_code;
}

int main(int argc, char **argv) {
    (void)argv;
    if (argc > 1) return too_late();
    struct shmworker_handlers *handlers;
    struct shmworker_pool_options pool_options = {.size = sizeof pool_options, .workers = 2};
    null_arguments();
    temporal();
    EXPECT(OK, shmworker_handlers_new(&handlers));
    EXPECT(OK, shmworker_handlers_add(handlers, "echo", echo, NULL));
    EXPECT(OK, shmworker_handlers_add(handlers, "stay", stay, NULL));
    options(handlers);
    versions(handlers);
    live_lanes(handlers);
    EXPECT(OK, shmworker_pool_fork(handlers, &pool_options, &pool));
    lengths();
    finishes();
    stale_handles();
    events();
    reserves_everything();
    submits_until_there_is_no_room();
    threads();
    in_a_fork(handlers);
    after_shutdown(handlers);
    EXPECT(OK, shmworker_handlers_free(handlers));
    EXPECT(STALE_HANDLE, shmworker_handlers_free(handlers));
    EXPECT(STALE_HANDLE, shmworker_handlers_add(handlers, "a", echo, NULL));
    puts("every misuse has its code");
    return 0;
}
