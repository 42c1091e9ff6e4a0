// A pool of the worker program that docs/ffi.md shows: exec PROGRAM

#include "expect.h"

int main(int argc, char **argv) {
    struct shmworker_pool_options options = {.size = sizeof options, .workers = 2};
    struct shmworker_outcome outcome = {.size = sizeof outcome};
    struct shmworker_pool *pool;
    struct shmworker_task *task;
    EXPECT_TRUE(argc == 2);
    EXPECT(OK, shmworker_pool_exec(argv[1], NULL, &options, &pool));
    EXPECT(OK, shmworker_pool_submit(pool, "invert", "\x01\xfe", 2, NULL, &task));
    EXPECT(OK, shmworker_task_wait(task, -1, &outcome));
    EXPECT_TRUE(outcome.code == SHMWORKER_RESULT_OK && outcome.len == 2 && memcmp(outcome.data, "\xfe\x01", 2) == 0);
    EXPECT(OK, shmworker_task_free(task));
    EXPECT(OK, shmworker_pool_submit(pool, "invert", NULL, 0, NULL, &task));
    EXPECT(OK, shmworker_task_wait(task, -1, &outcome));
    EXPECT_TRUE(outcome.code == SHMWORKER_RESULT_TASK_FAILED && strstr(outcome.message, "NoImage: the image is empty"));
    EXPECT(OK, shmworker_task_free(task));
    EXPECT(OK, shmworker_pool_free(pool));
    puts("the program of the page works");
    return 0;
}
