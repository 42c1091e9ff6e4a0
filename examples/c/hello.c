// A pool of worker processes, one task, its result.
//
//   cc hello.c $(pkg-config --cflags --libs shmworker) -o hello && ./hello World

#include "common.h"

#include <string.h>

// Runs in a worker: reads its input where it lies in shared memory, and writes its result there.
static int32_t greet(struct shmworker_context *context, void *user_data) {
    const char *greeting = user_data;
    struct shmworker_payload name;
    uint8_t *place;
    int32_t code = shmworker_context_argument(context, 0, &name);
    if (code == SHMWORKER_RESULT_OK) {
        code = shmworker_context_reserve(context, strlen(greeting) + name.len, &place);
    }
    if (code == SHMWORKER_RESULT_OK) {
        memcpy(place, greeting, strlen(greeting));
        memcpy(place + strlen(greeting), name.data, name.len);
    }
    return code;
}

int main(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "World";
    static char greeting[] = "Hello, ";
    struct shmworker_handlers *handlers;
    struct shmworker_pool *pool;
    struct shmworker_task *task;
    struct shmworker_outcome outcome = {.size = sizeof outcome};

    check(shmworker_check_abi(SHMWORKER_ABI_MAJOR, SHMWORKER_ABI_MINOR));
    check(shmworker_handlers_new(&handlers));
    check(shmworker_handlers_add(handlers, "greet", greet, greeting));
    check(shmworker_pool_fork(handlers, NULL, &pool));

    check(shmworker_pool_submit(pool, "greet", name, strlen(name), NULL, &task));
    check(shmworker_task_wait(task, -1, &outcome));
    if (outcome.code == SHMWORKER_RESULT_OK) {
        printf("%.*s\n", (int)outcome.len, (const char *)outcome.data);
    } else {
        fprintf(stderr, "%s\n", outcome.message);
    }

    check(shmworker_task_free(task));
    check(shmworker_pool_free(pool));
    check(shmworker_handlers_free(handlers));
    return outcome.code == SHMWORKER_RESULT_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
