// Results in an event loop: one thread that waits with epoll for whatever comes, and never for a single task.

#define _POSIX_C_SOURCE 200809L

#include "common.h"

#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { TASKS = 200 };

static int32_t square(struct shmworker_context *context, void *user_data) {
    struct shmworker_payload input;
    uint64_t x;
    int32_t code = shmworker_context_argument(context, 0, &input);
    (void)user_data;
    if (code != SHMWORKER_RESULT_OK || input.len != sizeof x) {
        return SHMWORKER_RESULT_INVALID_ARGUMENT;
    }
    memcpy(&x, input.data, sizeof x);
    x *= x;
    return shmworker_context_set_result(context, &x, sizeof x, NULL);
}

// Takes what has ended; returns how many tasks that were.
static int take(struct shmworker_pool *pool, uint64_t *sum) {
    struct shmworker_task *task;
    int taken = 0;
    int32_t code;
    while ((code = shmworker_pool_next_event(pool, &task, NULL)) == SHMWORKER_RESULT_OK) {
        struct shmworker_outcome outcome = {.size = sizeof outcome};
        uint64_t squared;
        check(shmworker_task_wait(task, 0, &outcome));
        check(outcome.code);
        memcpy(&squared, outcome.data, sizeof squared);
        *sum += squared;
        check(shmworker_task_free(task));
        taken++;
    }
    if (code != SHMWORKER_RESULT_NOT_READY) {
        check(code);
    }
    return taken;
}

int main(void) {
    struct shmworker_handlers *handlers;
    struct shmworker_pool *pool;
    struct epoll_event event = {.events = EPOLLIN};
    uint64_t sum = 0;
    int fd, epoll, ended = 0;

    check(shmworker_handlers_new(&handlers));
    check(shmworker_handlers_add(handlers, "square", square, NULL));
    check(shmworker_pool_fork(handlers, NULL, &pool));
    check(shmworker_pool_event_fd(pool, &fd));
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
        perror("epoll");
        return EXIT_FAILURE;
    }
    for (uint64_t i = 1; i <= TASKS; i++) {
        struct shmworker_task *task;
        check(shmworker_pool_submit(pool, "square", &i, sizeof i, NULL, &task));
        check(shmworker_task_notify(task, NULL));
    }
    while (ended < TASKS) {
        if (epoll_wait(epoll, &event, 1, -1) == 1) {
            ended += take(pool, &sum);
        }
    }
    printf("the sum of %d squares is %d\n", ended, (int)sum);
    close(epoll);
    check(shmworker_pool_free(pool));
    check(shmworker_handlers_free(handlers));
    return EXIT_SUCCESS;
}
