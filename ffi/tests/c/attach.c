// A pool that other processes find by its name: a client, a worker, one whose worker crashes, and what is said to those for whom
// there is no pool, or one of another version.
//
//   attach                 the owner, which runs the others
//   attach client NAME     submits, and exits with the code of what went wrong
//   attach worker NAME     works
//   attach owner NAME      has a pool until its input ends

#define _GNU_SOURCE

#include "expect.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static int32_t echo(struct shmworker_context *context, void *user_data) {
    struct shmworker_payload input;
    (void)user_data;
    shmworker_context_argument(context, 0, &input);
    return shmworker_context_set_result(context, input.data, input.len, NULL);
}

static int32_t stay(struct shmworker_context *context, void *user_data) {
    (void)user_data;
    while (!shmworker_context_is_cancelled(context)) {
        usleep(1000);
    }
    return SHMWORKER_RESULT_CANCELLED;
}

static int32_t crash(struct shmworker_context *context, void *user_data) {
    (void)context;
    (void)user_data;
    return raise(SIGSEGV);
}

// The pool for which this process works.
static char works_for[32];

// Submits a task itself, as any other process that has attached, and gives its result.
static int32_t delegate(struct shmworker_context *context, void *user_data) {
    struct shmworker_payload input;
    struct shmworker_outcome outcome = {.size = sizeof outcome};
    struct shmworker_pool *pool;
    struct shmworker_task *task;
    (void)user_data;
    shmworker_context_argument(context, 0, &input);
    int32_t code = shmworker_pool_attach(works_for, &pool);
    if (code != SHMWORKER_RESULT_OK) {
        return shmworker_context_fail(context, "Attach", shmworker_last_error());
    }
    code = shmworker_pool_submit(pool, "echo", input.data, input.len, NULL, &task);
    if (code == SHMWORKER_RESULT_OK) {
        code = shmworker_task_wait(task, -1, &outcome);
        if (code == SHMWORKER_RESULT_OK) code = outcome.code;
        if (code == SHMWORKER_RESULT_OK) code = shmworker_context_set_result(context, outcome.data, outcome.len, NULL);
        shmworker_task_free(task);
    }
    shmworker_pool_free(pool);
    return code;
}

static struct shmworker_handlers *all_handlers(void) {
    struct shmworker_handlers *handlers;
    EXPECT(OK, shmworker_handlers_new(&handlers));
    EXPECT(OK, shmworker_handlers_add(handlers, "echo", echo, NULL));
    EXPECT(OK, shmworker_handlers_add(handlers, "stay", stay, NULL));
    EXPECT(OK, shmworker_handlers_add(handlers, "crash", crash, NULL));
    EXPECT(OK, shmworker_handlers_add(handlers, "delegate", delegate, NULL));
    return handlers;
}

static int client(const char *name) {
    struct shmworker_pool *pool;
    struct shmworker_task *task;
    struct shmworker_buffer *buffer;
    struct shmworker_outcome outcome = {.size = sizeof outcome};
    uint8_t *data;
    size_t len;
    int32_t code = shmworker_pool_attach(name, &pool);
    if (code == SHMWORKER_RESULT_ABI_MISMATCH) {
        EXPECT_TEXT("layout version");
        struct shmworker_temporal_options options = {.size = sizeof options, .pool = name};
        struct shmworker_temporal *lanes;
        struct shmworker_handlers *handlers = all_handlers();
        int exit_code;
        options.lanes = SHMWORKER_TEMPORAL_LANE_WORKFLOW;
        EXPECT(ABI_MISMATCH, shmworker_temporal_attach(&options, &lanes));
        EXPECT_TEXT("layout version");
        EXPECT(ABI_MISMATCH, shmworker_worker_run(handlers, name, &exit_code));
        EXPECT_TEXT("layout version");
        EXPECT(OK, shmworker_handlers_free(handlers));
    }
    if (code != SHMWORKER_RESULT_OK) {
        return code;
    }
    EXPECT(OK, shmworker_pool_reserve(pool, 1 << 20, &buffer));
    EXPECT(OK, shmworker_buffer_data(buffer, &data, &len));
    memset(data, 7, len);
    EXPECT(OK, shmworker_buffer_submit(buffer, pool, "echo", NULL, &task));
    EXPECT(OK, shmworker_task_wait(task, -1, &outcome));
    EXPECT_TRUE(outcome.code == SHMWORKER_RESULT_OK && outcome.len == 1 << 20 && outcome.data[outcome.len - 1] == 7);
    EXPECT(OK, shmworker_task_free(task));
    EXPECT(OK, shmworker_pool_submit(pool, "no such handler", NULL, 0, NULL, &task));
    EXPECT(OK, shmworker_task_wait(task, -1, &outcome));
    EXPECT_TRUE(outcome.code == SHMWORKER_RESULT_TASK_UNKNOWN && outcome.message[0] != 0);
    EXPECT(OK, shmworker_task_free(task));
    EXPECT(REFUSED, shmworker_pool_resize(pool, 3));
    struct pollfd ready = {.events = POLLIN};
    EXPECT(OK, shmworker_pool_event_fd(pool, &ready.fd));
    EXPECT(OK, shmworker_pool_submit(pool, "echo", "event", 5, NULL, &task));
    EXPECT(OK, shmworker_task_notify(task, &ready));
    EXPECT_TRUE(poll(&ready, 1, -1) == 1);
    struct shmworker_task *told;
    void *note;
    EXPECT(OK, shmworker_pool_next_event(pool, &told, &note));
    EXPECT_TRUE(told == task && note == &ready && poll(&ready, 1, 0) == 0);
    EXPECT(OK, shmworker_task_wait(task, 0, &outcome));
    EXPECT_TRUE(outcome.len == 5);
    EXPECT(OK, shmworker_task_free(task));
    EXPECT(OK, shmworker_pool_submit(pool, "stay", NULL, 0, NULL, &task));
    EXPECT(OK, shmworker_task_cancel(task));
    EXPECT(OK, shmworker_task_wait(task, -1, &outcome));
    EXPECT_TRUE(outcome.code == SHMWORKER_RESULT_TASK_CANCELLED);
    EXPECT(OK, shmworker_task_free(task));
    // What has not ended in time is cancelled, and its result can still be taken.
    EXPECT(OK, shmworker_pool_submit(pool, "stay", NULL, 0, NULL, &task));
    EXPECT(OK, shmworker_pool_shutdown(pool, 10));
    EXPECT(OK, shmworker_task_wait(task, -1, &outcome));
    EXPECT_TRUE(outcome.code == SHMWORKER_RESULT_TASK_CANCELLED || outcome.code == SHMWORKER_RESULT_POOL_ENDED);
    EXPECT(OK, shmworker_task_free(task));
    EXPECT(OK, shmworker_pool_free(pool));
    return 0;
}

static int owner(const char *name) {
    struct shmworker_handlers *handlers = all_handlers();
    struct shmworker_pool_options options = {.size = sizeof options, .name = name};
    struct shmworker_pool *pool;
    char byte;
    EXPECT(OK, shmworker_pool_fork(handlers, &options, &pool));
    puts("ready");
    fflush(stdout);
    while (read(STDIN_FILENO, &byte, 1) > 0) {
    }
    EXPECT(OK, shmworker_pool_free(pool));
    EXPECT(OK, shmworker_handlers_free(handlers));
    return 0;
}

static int worker(const char *name) {
    int exit_code;
    struct shmworker_handlers *handlers = all_handlers();
    snprintf(works_for, sizeof works_for, "%s", name);
    EXPECT(OK, shmworker_worker_run(handlers, name, &exit_code));
    EXPECT(OK, shmworker_handlers_free(handlers));
    return exit_code;
}

static pid_t start(const char *role, const char *name) {
    pid_t child = fork();
    if (child == 0) {
        execl("/proc/self/exe", "attach", role, name, (char *)NULL);
        _exit(127);
    }
    EXPECT_TRUE(child > 0);
    return child;
}

static int status_of(pid_t child) {
    int status;
    EXPECT_TRUE(waitpid(child, &status, 0) == child);
    return status;
}

// The exit status has eight bits.
static int client_code(const char *name) {
    int status = status_of(start("client", name));
    EXPECT_TRUE(WIFEXITED(status));
    return WEXITSTATUS(status);
}

// Writes another layout version, the second word, into the segment: the coordinator's descriptors lead to it.
static void change_version(int32_t coordinator) {
    char path[PATH_MAX], target[PATH_MAX];
    struct dirent *entry;
    DIR *dir;
    int changed = 0;
    snprintf(path, sizeof path, "/proc/%d/fd", (int)coordinator);
    dir = opendir(path);
    EXPECT_TRUE(dir != NULL);
    while ((entry = readdir(dir)) != NULL) {
        ssize_t len = readlinkat(dirfd(dir), entry->d_name, target, sizeof target - 1);
        if (len > 0 && (target[len] = 0, strstr(target, "memfd:") != NULL)) {
            uint64_t version = 99;
            int fd = openat(dirfd(dir), entry->d_name, O_RDWR | O_CLOEXEC);
            EXPECT_TRUE(fd >= 0 && pwrite(fd, &version, sizeof version, sizeof version) == sizeof version);
            close(fd);
            changed++;
        }
    }
    closedir(dir);
    EXPECT_TRUE(changed == 1);
}

static struct shmworker_task *submit(struct shmworker_pool *pool, const char *name) {
    struct shmworker_task *task;
    EXPECT(OK, shmworker_pool_submit(pool, name, NULL, 0, NULL, &task));
    return task;
}

int main(int argc, char **argv) {
    if (argc == 3) {
        return strcmp(argv[1], "client") == 0 ? client(argv[2]) : strcmp(argv[1], "owner") == 0 ? owner(argv[2]) : worker(argv[2]);
    }
    char name[32];
    struct shmworker_handlers *handlers = all_handlers();
    struct shmworker_pool_options options = {.size = sizeof options, .workers = 1, .name = name};
    struct shmworker_outcome outcome = {.size = sizeof outcome};
    struct shmworker_pool *pool, *another;
    struct shmworker_task *blocker, *task;
    int32_t coordinator;
    pid_t guest;
    snprintf(name, sizeof name, "ffi-attach-%d", (int)getpid());
    memcpy(works_for, name, sizeof name);

    EXPECT_TRUE(client_code(name) == (SHMWORKER_RESULT_NOT_RUNNING & 255));
    EXPECT(OK, shmworker_pool_fork(handlers, &options, &pool));
    EXPECT(NOT_STARTED, shmworker_pool_fork(handlers, &options, &another));
    EXPECT_TEXT(name);
    EXPECT_TRUE(client_code(name) == 0);

    // The pool's own worker is busy, so that another runs the tasks.
    blocker = submit(pool, "stay");
    EXPECT(NOT_READY, shmworker_task_wait(blocker, 20, &outcome));
    guest = start("worker", name);
    for (int i = 0; i < 100; i++) {
        task = submit(pool, "echo");
        EXPECT(OK, shmworker_task_wait(task, -1, &outcome));
        EXPECT_TRUE(outcome.code == SHMWORKER_RESULT_OK && outcome.pid == (uint32_t)guest);
        EXPECT(OK, shmworker_task_free(task));
    }
    // It dies over a task: that is told, and its parent knows by what.
    task = submit(pool, "crash");
    EXPECT(OK, shmworker_task_wait(task, -1, &outcome));
    EXPECT_TRUE(outcome.code == SHMWORKER_RESULT_TASK_DIED && outcome.pid == (uint32_t)guest);
    EXPECT(OK, shmworker_task_free(task));
    int status = status_of(guest);
    EXPECT_TRUE(WIFSIGNALED(status) ? WTERMSIG(status) == SIGSEGV : WEXITSTATUS(status) != 0);
    EXPECT(OK, shmworker_task_cancel(blocker));
    EXPECT(OK, shmworker_task_free(blocker));

    // The pool's own worker too: it is replaced, and the signal is told.
    task = submit(pool, "crash");
    EXPECT(OK, shmworker_task_wait(task, -1, &outcome));
    EXPECT_TRUE(outcome.code == SHMWORKER_RESULT_TASK_DIED && (outcome.signal == SIGSEGV || outcome.exit_code > 0));
    EXPECT(OK, shmworker_task_free(task));

    // A worker that has attached ends with the pool.
    guest = start("worker", name);
    task = submit(pool, "echo");
    EXPECT(OK, shmworker_task_wait(task, -1, &outcome));
    EXPECT_TRUE(outcome.code == SHMWORKER_RESULT_OK);
    EXPECT(OK, shmworker_task_free(task));
    // A handler waits for a task of its own, which the other worker runs.
    EXPECT(OK, shmworker_pool_submit(pool, "delegate", "by another", 10, NULL, &task));
    EXPECT(OK, shmworker_task_wait(task, -1, &outcome));
    EXPECT_TRUE(outcome.code == SHMWORKER_RESULT_OK && outcome.len == 10 && memcmp(outcome.data, "by another", 10) == 0);
    EXPECT(OK, shmworker_task_free(task));
    EXPECT_TRUE(client_code(name) == 0);
    EXPECT(OK, shmworker_pool_coordinator_pid(pool, &coordinator));
    change_version(coordinator);
    EXPECT_TRUE(client_code(name) == (SHMWORKER_RESULT_ABI_MISMATCH & 255));
    EXPECT(OK, shmworker_pool_free(pool));
    status = status_of(guest);
    EXPECT_TRUE(WIFEXITED(status));
    EXPECT_TRUE(client_code(name) == (SHMWORKER_RESULT_NOT_RUNNING & 255));
    EXPECT(OK, shmworker_handlers_free(handlers));
    puts("clients and workers come and go");
    return 0;
}
