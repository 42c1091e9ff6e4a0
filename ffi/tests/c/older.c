// A client that asks whether the library is good for its header, and uses it if it is. Compiled with headers of other versions.

#include "expect.h"

static int32_t echo(struct shmworker_context *context, void *user_data) {
    struct shmworker_payload input;
    (void)user_data;
    shmworker_context_argument(context, 0, &input);
    return shmworker_context_set_result(context, input.data, input.len, NULL);
}

int main(void) {
    const int32_t good = shmworker_check_abi(SHMWORKER_ABI_MAJOR, SHMWORKER_ABI_MINOR);
    printf("%s: %s\n", shmworker_result_name(good) + strlen("SHMWORKER_RESULT_"), shmworker_last_error());
    if (good != SHMWORKER_RESULT_OK) {
        EXPECT_TEXT("compile it with the header of this library");
        return 0;
    }
    char name[32];
    struct shmworker_handlers *handlers;
    struct shmworker_pool *pool, *guest;
    struct shmworker_task *task;
    // Whatever lies behind what this header has of each is not looked at, and not written to.
    struct {
        struct shmworker_pool_options options;
        char behind[64];
    } pool_options;
    struct {
        struct shmworker_task_options options;
        char behind[64];
    } task_options;
    struct {
        struct shmworker_outcome outcome;
        char behind[64];
    } ended;
    char behind[64];
    memset(behind, 0x5a, sizeof behind);
    memset(&pool_options, 0x5a, sizeof pool_options);
    memset(&task_options, 0x5a, sizeof task_options);
    memset(&ended, 0x5a, sizeof ended);
    snprintf(name, sizeof name, "ffi-older-%p", (void *)&pool);
    pool_options.options = (struct shmworker_pool_options){.size = sizeof pool_options.options, .name = name, .workers = 1};
    task_options.options = (struct shmworker_task_options){.size = sizeof task_options.options, .max_attempts = 2};
    ended.outcome.size = sizeof ended.outcome;
    EXPECT(OK, shmworker_handlers_new(&handlers));
    EXPECT(OK, shmworker_handlers_add(handlers, "echo", echo, NULL));
    EXPECT(OK, shmworker_pool_fork(handlers, &pool_options.options, &pool));
    EXPECT(OK, shmworker_pool_attach(name, &guest));
    EXPECT(OK, shmworker_pool_submit(guest, "echo", "abc", 3, &task_options.options, &task));
    EXPECT(OK, shmworker_task_wait(task, -1, &ended.outcome));
    EXPECT_TRUE(ended.outcome.code == SHMWORKER_RESULT_OK && ended.outcome.len == 3);
    EXPECT_TRUE(memcmp(ended.outcome.data, "abc", 3) == 0);
    EXPECT_TRUE(memcmp(ended.behind, behind, sizeof behind) == 0);
    EXPECT(OK, shmworker_task_free(task));
    EXPECT(OK, shmworker_pool_free(guest));
    EXPECT(OK, shmworker_pool_free(pool));
    EXPECT(OK, shmworker_handlers_free(handlers));
    return 0;
}
