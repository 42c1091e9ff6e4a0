// What a program keeps to itself that uses the library: the actions and the mask of its signals, its children, its
// descriptors, what it has not written out yet, what it does at its end. Whatever it does with signals itself, the library
// does its work.

#define _GNU_SOURCE

#include "expect.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum way { PLAIN, CHILDREN_IGNORED, CHILDREN_REAPED, ALL_BLOCKED, INTERRUPTED, WAYS };

#define SIGNALS 65

struct own {
    struct sigaction actions[SIGNALS];
    sigset_t mask;
    char fds[512];
};

static void nothing(int signal) { (void)signal; }

static void reap(int signal) {
    const int before = errno;
    (void)signal;
    while (waitpid(-1, NULL, WNOHANG) > 0) {
    }
    errno = before;
}

// The signals that are blocked, of those that can be.
static int32_t blocked(struct shmworker_context *context, void *user_data) {
    sigset_t mask;
    uint8_t count = 0;
    (void)user_data;
    sigprocmask(SIG_SETMASK, NULL, &mask);
    for (int signal = 1; signal < SIGNALS; signal++) count = (uint8_t)(count + (sigismember(&mask, signal) == 1));
    printf("what a worker has not written out\n");
    return shmworker_context_set_result(context, &count, 1, NULL);
}

static struct own look(void) {
    struct own own;
    DIR *dir = opendir("/proc/self/fd");
    struct dirent *entry;
    memset(&own, 0, sizeof own);
    EXPECT_TRUE(dir != NULL);
    while ((entry = readdir(dir)) != NULL) {
        const int fd = atoi(entry->d_name);
        if (entry->d_name[0] != '.' && fd != dirfd(dir)) {
            EXPECT_TRUE(fd < (int)sizeof own.fds);
            own.fds[fd] = (char)(1 + fcntl(fd, F_GETFD));
        }
    }
    closedir(dir);
    for (int signal = 1; signal < SIGNALS; signal++) sigaction(signal, NULL, &own.actions[signal]);
    sigprocmask(SIG_SETMASK, NULL, &own.mask);
    return own;
}

static void is_as_before(const struct own *before, bool has_pools) {
    const struct own now = look();
    for (int signal = 1; signal < SIGNALS; signal++) {
        EXPECT_TRUE(now.actions[signal].sa_handler == before->actions[signal].sa_handler);
        EXPECT_TRUE(now.actions[signal].sa_flags == before->actions[signal].sa_flags);
        EXPECT_TRUE(sigismember(&now.mask, signal) == sigismember(&before->mask, signal));
    }
    for (size_t fd = 0; fd < sizeof now.fds; fd++) {
        // What it has opened reaches no program that this one executes.
        const bool is_the_pools = has_pools && before->fds[fd] == 0 && now.fds[fd] == 1 + FD_CLOEXEC;
        EXPECT_TRUE(now.fds[fd] == before->fds[fd] || is_the_pools);
    }
}

static void use(const struct own *before) {
    char name[32];
    struct shmworker_handlers *handlers;
    struct shmworker_pool *pool, *guest, *none;
    struct shmworker_pool_options options = {.size = sizeof options, .workers = 1, .name = name};
    struct shmworker_pool_options nameless = {.size = sizeof nameless, .workers = 1};
    struct shmworker_outcome outcome = {.size = sizeof outcome};
    int fd;
    snprintf(name, sizeof name, "ffi-host-%d", (int)getpid());
    EXPECT(OK, shmworker_handlers_new(&handlers));
    EXPECT(OK, shmworker_handlers_add(handlers, "blocked", blocked, NULL));
    EXPECT(OK, shmworker_pool_fork(handlers, &options, &pool));
    EXPECT(OK, shmworker_pool_attach(name, &guest));
    EXPECT(OK, shmworker_pool_event_fd(pool, &fd));
    for (int i = 0; i < 200; i++) {
        struct shmworker_task *task;
        uint8_t count;
        EXPECT(OK, shmworker_pool_submit(i % 2 == 0 ? pool : guest, "blocked", NULL, 0, NULL, &task));
        EXPECT(OK, shmworker_task_notify(task, NULL));
        EXPECT(OK, shmworker_task_finish(task, i % 3 == 0 ? -1 : 100000, &count, 1, &outcome));
        EXPECT_TRUE(outcome.code == SHMWORKER_RESULT_OK && outcome.len == 1 && count == 0);
    }
    is_as_before(before, true);
    EXPECT(NOT_STARTED, shmworker_pool_exec("/bin/true", NULL, &nameless, &none));
    EXPECT(OK, shmworker_pool_shutdown(guest, 1000));
    EXPECT(OK, shmworker_pool_free(guest));
    EXPECT(OK, shmworker_pool_free(pool));
    EXPECT(OK, shmworker_handlers_free(handlers));
    is_as_before(before, false);
}

static void live(enum way way) {
    // Without SA_RESTART: what is interrupted fails.
    struct sigaction action = {.sa_handler = nothing};
    sigset_t all;
    sigfillset(&all);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGALRM, &action, NULL);
    if (way == CHILDREN_IGNORED) signal(SIGCHLD, SIG_IGN);
    if (way == CHILDREN_REAPED) signal(SIGCHLD, reap);
    if (way == ALL_BLOCKED) sigprocmask(SIG_BLOCK, &all, NULL);
    struct itimerval often = {{0, 500}, {0, 500}}, never = {{0, 0}, {0, 0}};
    const struct own before = look();
    const pid_t child = fork();
    if (child == 0) _exit(42);
    if (way == INTERRUPTED) setitimer(ITIMER_REAL, &often, NULL);
    use(&before);
    setitimer(ITIMER_REAL, &never, NULL);
    int status;
    if (way != CHILDREN_IGNORED && way != CHILDREN_REAPED) {
        EXPECT_TRUE(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 42);
    }
    while (waitpid(-1, &status, 0) > 0) {
        EXPECT_TRUE(way == CHILDREN_REAPED);
    }
    EXPECT_TRUE(errno == ECHILD);
}

static pid_t program;

static void at_exit(void) {
    if (getpid() != program) puts("a worker does what a program does at its end");
}

int main(void) {
    program = getpid();
    atexit(at_exit);
    // Each of these is a program of its own, whose output is not looked at.
    for (enum way way = PLAIN; way < WAYS; way++) {
        int status;
        const pid_t child = fork();
        if (child == 0) {
            EXPECT_TRUE(freopen("/dev/null", "w", stdout) != NULL);
            live(way);
            _exit(0);
        }
        EXPECT_TRUE(child > 0 && waitpid(child, &status, 0) == child);
        if (status != 0) {
            fprintf(stderr, "way %d: status %x\n", (int)way, (unsigned)status);
            return EXIT_FAILURE;
        }
    }
    // Not written out before the pool starts, and before the worker ends.
    printf("the program's own line\n");
    struct shmworker_handlers *handlers;
    struct shmworker_pool *pool;
    struct shmworker_pool_options options = {.size = sizeof options, .workers = 1};
    struct shmworker_task *task;
    EXPECT(OK, shmworker_handlers_new(&handlers));
    EXPECT(OK, shmworker_handlers_add(handlers, "blocked", blocked, NULL));
    EXPECT(OK, shmworker_pool_fork(handlers, &options, &pool));
    EXPECT(OK, shmworker_pool_submit(pool, "blocked", NULL, 0, NULL, &task));
    EXPECT(OK, shmworker_task_free(task));
    EXPECT(OK, shmworker_pool_free(pool));
    EXPECT(OK, shmworker_handlers_free(handlers));
    puts("what is the program's stays so");
    return 0;
}
