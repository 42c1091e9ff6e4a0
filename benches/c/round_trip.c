// Round trips from C, as `ffi/examples/round_trip.rs` makes them from Rust: a batch for each line with its kind, answered by the
// nanoseconds that each took.

#define _GNU_SOURCE

#include <shmworker.h>

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BATCH = 200, WARM_UP = 50 };

static void check(int32_t code) {
    if (code != SHMWORKER_RESULT_OK) {
        fprintf(stderr, "%s: %s\n", shmworker_result_name(code), shmworker_last_error());
        exit(EXIT_FAILURE);
    }
}

static void pin(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}

static int32_t pin_worker(void *user_data, void **state) {
    (void)user_data;
    *state = NULL;
    pin(1);
    return SHMWORKER_RESULT_OK;
}

static int32_t echo(struct shmworker_context *context, void *user_data) {
    struct shmworker_payload input;
    (void)user_data;
    shmworker_context_argument(context, 0, &input);
    return shmworker_context_set_result(context, input.data, input.len, NULL);
}

// Reads nothing.
static int32_t length(struct shmworker_context *context, void *user_data) {
    struct shmworker_payload input;
    uint64_t len;
    (void)user_data;
    shmworker_context_argument(context, 0, &input);
    len = input.len;
    return shmworker_context_set_result(context, &len, sizeof len, NULL);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void finish(struct shmworker_task *task, size_t expected) {
    struct shmworker_outcome outcome = {.size = sizeof outcome};
    uint8_t result[64];
    check(shmworker_task_finish(task, -1, result, sizeof result, &outcome));
    check(outcome.code);
    if (outcome.len != expected) {
        exit(EXIT_FAILURE);
    }
}

static void copied(struct shmworker_pool *pool, size_t len, int trips) {
    static const char message[64];
    for (int i = 0; i < trips; i++) {
        struct shmworker_task *task;
        check(shmworker_pool_submit(pool, "echo", message, len, NULL, &task));
        finish(task, len);
    }
}

static void in_place(struct shmworker_pool *pool, size_t len, int trips) {
    for (int i = 0; i < trips; i++) {
        struct shmworker_buffer *buffer;
        struct shmworker_task *task;
        uint8_t *data;
        check(shmworker_pool_reserve(pool, len, &buffer));
        check(shmworker_buffer_data(buffer, &data, &len));
        data[0] = (uint8_t)i;
        check(shmworker_buffer_submit(buffer, pool, "length", NULL, &task));
        finish(task, sizeof(uint64_t));
    }
}

static const struct kind {
    const char *name;
    void (*trips)(struct shmworker_pool *, size_t, int);
    size_t len;
} KINDS[] = {
    {"copied-64\n", copied, 64},
    {"in-place-64\n", in_place, 64},
    {"in-place-1048576\n", in_place, 1 << 20},
};

int main(void) {
    struct shmworker_handlers *handlers;
    struct shmworker_pool *pool;
    struct shmworker_pool_options options = {.size = sizeof options, .workers = 1, .reserve = 1};
    check(shmworker_handlers_new(&handlers));
    check(shmworker_handlers_set_state(handlers, pin_worker, NULL, NULL));
    check(shmworker_handlers_add(handlers, "echo", echo, NULL));
    check(shmworker_handlers_add(handlers, "length", length, NULL));
    check(shmworker_pool_fork(handlers, &options, &pool));
    pin(0);
    for (char line[64]; fgets(line, sizeof line, stdin) != NULL;) {
        for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++) {
            if (strcmp(line, KINDS[i].name) == 0) {
                KINDS[i].trips(pool, KINDS[i].len, WARM_UP);
                const double begun = now();
                KINDS[i].trips(pool, KINDS[i].len, BATCH);
                printf("%.1f\n", (now() - begun) / BATCH);
            }
        }
        fflush(stdout);
    }
    check(shmworker_pool_free(pool));
    check(shmworker_handlers_free(handlers));
    return 0;
}
