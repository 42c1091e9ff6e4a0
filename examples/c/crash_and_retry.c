// Handlers that crash: one task's failure, or another attempt, and nobody else notices.

#include "common.h"

#include <signal.h>
#include <string.h>

enum { DOCUMENTS = 100, CRASHES_ONCE = 13, CRASHES_ALWAYS = 66 };

// Gets as far as a checkpoint first, so that the next attempt knows of this one.
static int32_t parse(struct shmworker_context *context, void *user_data) {
    struct shmworker_payload number, earlier;
    uint32_t document;
    int32_t code = shmworker_context_argument(context, 0, &number);
    (void)user_data;
    if (code != SHMWORKER_RESULT_OK || number.len != sizeof document) {
        return SHMWORKER_RESULT_INVALID_ARGUMENT;
    }
    memcpy(&document, number.data, sizeof document);
    if (document == CRASHES_ALWAYS || (document == CRASHES_ONCE && shmworker_context_attempt(context) == 1)) {
        code = shmworker_context_checkpoint(context, "page 7", 6, NULL);
        return code == SHMWORKER_RESULT_OK ? raise(SIGSEGV) : code;
    }
    if (shmworker_context_last_checkpoint(context, &earlier) == SHMWORKER_RESULT_OK) {
        return shmworker_context_set_result(context, earlier.data, earlier.len, NULL);
    }
    return SHMWORKER_RESULT_OK;
}

int main(void) {
    struct shmworker_handlers *handlers;
    struct shmworker_pool_options pool_options = {.size = sizeof pool_options, .workers = 2};
    struct shmworker_task_options options = {.size = sizeof options, .max_attempts = 3, .max_worker_deaths = 2};
    struct shmworker_pool *pool;
    struct shmworker_task *tasks[DOCUMENTS];
    int done = 0;

    check(shmworker_handlers_new(&handlers));
    check(shmworker_handlers_add(handlers, "parse", parse, NULL));
    check(shmworker_pool_fork(handlers, &pool_options, &pool));
    for (uint32_t i = 0; i < DOCUMENTS; i++) {
        check(shmworker_pool_submit(pool, "parse", &i, sizeof i, &options, &tasks[i]));
    }
    for (uint32_t i = 0; i < DOCUMENTS; i++) {
        struct shmworker_outcome outcome = {.size = sizeof outcome};
        check(shmworker_task_wait(tasks[i], -1, &outcome));
        if (outcome.code != SHMWORKER_RESULT_OK) {
            printf("document %d: %s, signal %d, after %d attempts\n", (int)i, shmworker_result_name(outcome.code),
                   (int)outcome.signal, (int)outcome.attempts);
        } else if (outcome.len > 0) {
            printf("document %d: goes on at %.*s, by attempt %d\n", (int)i, (int)outcome.len,
                   (const char *)outcome.data, (int)outcome.attempts);
            done++;
        } else {
            done++;
        }
        check(shmworker_task_free(tasks[i]));
    }
    printf("%d documents of %d are done\n", done, DOCUMENTS);
    check(shmworker_pool_free(pool));
    check(shmworker_handlers_free(handlers));
    return EXIT_SUCCESS;
}
