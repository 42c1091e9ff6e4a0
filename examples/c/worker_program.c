// A program that is its own worker program.
//
//   worker_program             starts a pool whose workers execute this program with the argument `work`, and has them count words
//   worker_program work POOL   works for a pool that runs already, beside its own workers

#include "common.h"

#include <ctype.h>
#include <string.h>
#include <unistd.h>

static int32_t count_words(struct shmworker_context *context, void *user_data) {
    struct shmworker_payload text;
    uint64_t words = 0;
    int32_t code = shmworker_context_argument(context, 0, &text);
    (void)user_data;
    if (code != SHMWORKER_RESULT_OK) {
        return code;
    }
    if (text.len == 0) {
        return shmworker_context_fail_for_good(context, "NoText", "there is no text to count words in");
    }
    for (size_t i = 0; i < text.len; i++) {
        words += !isspace(text.data[i]) && (i + 1 == text.len || isspace(text.data[i + 1]));
    }
    return shmworker_context_set_result(context, &words, sizeof words, NULL);
}

// The whole of a worker program: handlers, then one call that returns when the pool has ended.
static int work(const char *pool) {
    struct shmworker_handlers *handlers;
    int exit_code;
    check(shmworker_handlers_new(&handlers));
    check(shmworker_handlers_add(handlers, "count words", count_words, NULL));
    check(shmworker_worker_run(handlers, pool, &exit_code));
    check(shmworker_handlers_free(handlers));
    return exit_code;
}

static void submit(struct shmworker_pool *pool, const char *text) {
    struct shmworker_task *task;
    struct shmworker_outcome outcome = {.size = sizeof outcome};
    check(shmworker_pool_submit(pool, "count words", text, strlen(text), NULL, &task));
    check(shmworker_task_wait(task, -1, &outcome));
    if (outcome.code == SHMWORKER_RESULT_OK) {
        uint64_t words;
        memcpy(&words, outcome.data, sizeof words);
        printf("%d words, counted by %s\n", (int)words, outcome.pid == (uint32_t)getpid() ? "this process" : "a worker");
    } else {
        printf("%s: %s\n", shmworker_result_name(outcome.code), outcome.message);
    }
    check(shmworker_task_free(task));
}

int main(int argc, char **argv) {
    static const char *const arguments[] = {"work", NULL};
    struct shmworker_pool_options options = {.size = sizeof options, .workers = 2};
    struct shmworker_pool *pool;
    if (argc > 1 && strcmp(argv[1], "work") == 0) {
        return work(argc > 2 ? argv[2] : NULL);
    }
    check(shmworker_pool_exec("/proc/self/exe", arguments, &options, &pool));
    submit(pool, "shared memory is faster than a pipe");
    submit(pool, "");
    check(shmworker_pool_free(pool));
    return EXIT_SUCCESS;
}
