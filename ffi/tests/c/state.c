// Pools that lie in a file: whoever is killed, and however often, what was accepted comes to its end, and each result is had once.
//
//   state                        all scenes; SHMWORKER_STATE_KILLS says how often is killed at random
//   state squares WAY DIR N      writes the squares below N into DIR/out, whatever has happened before; WAY: fork, exec
//   state holds WAY DIR          a pool with a task that runs until DIR/end is there, and one behind it
//   state serves fork DIR        a pool with a name, until DIR/over is there
//   state nightly DIR            a client of that pool with a task that runs, and one whose result it has in hand
//   state work                   a worker of a pool of the way `exec`

#define _GNU_SOURCE

#include "expect.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// The variable that marks the processes of a program that is to be killed with all of them.
#define MARK "SHMWORKER_TEST_STATE"

static char exe[PATH_MAX];

// ---- files ----------------------------------------------------------------------------------------------------------

static const char *in(const char *dir, const char *name) {
    static char paths[4][PATH_MAX + 64];
    static unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", dir, name);
    return path;
}

static void append(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    const ssize_t len = (ssize_t)strlen(text);
    EXPECT_TRUE(fd >= 0 && write(fd, text, (size_t)len) == len && close(fd) == 0);
}

static off_t size_of(const char *path) {
    struct stat found;
    return stat(path, &found) == 0 ? found.st_size : 0;
}

static void until_there(const char *path) {
    while (access(path, F_OK) != 0) {
        usleep(1000);
    }
}

static void until_larger(const char *path, off_t size) {
    while (size_of(path) <= size) {
        usleep(1000);
    }
}

static void new_directory(char *dir) {
    strcpy(dir, "/tmp/shmworker-state-XXXXXX");
    EXPECT_TRUE(mkdtemp(dir) != NULL);
}

static void remove_directory(const char *dir) {
    DIR *entries = opendir(dir);
    for (struct dirent *entry; (entry = readdir(entries)) != NULL;) {
        unlinkat(dirfd(entries), entry->d_name, 0);
    }
    closedir(entries);
    EXPECT_TRUE(rmdir(dir) == 0);
}

// ---- handlers -------------------------------------------------------------------------------------------------------

static int32_t square(struct shmworker_context *context, void *user_data) {
    struct shmworker_payload input;
    uint64_t x;
    (void)user_data;
    shmworker_context_argument(context, 0, &input);
    if (input.len != sizeof x) {
        return shmworker_context_fail_for_good(context, NULL, "no number");
    }
    memcpy(&x, input.data, sizeof x);
    x *= x;
    return shmworker_context_set_result(context, &x, sizeof x, NULL);
}

static const char *text_of(struct shmworker_context *context) {
    static char text[PATH_MAX];
    struct shmworker_payload input;
    shmworker_context_argument(context, 0, &input);
    snprintf(text, sizeof text, "%.*s", (int)input.len, (const char *)input.data);
    return text;
}

// Says in its directory that it has begun, and ends when that says so.
static int32_t hold(struct shmworker_context *context, void *user_data) {
    const char *dir = text_of(context);
    (void)user_data;
    append(in(dir, "began"), ".");
    until_there(in(dir, "end"));
    return shmworker_context_set_result(context, "held", 4, NULL);
}

// Says in its directory that it has run.
static int32_t run(struct shmworker_context *context, void *user_data) {
    (void)user_data;
    append(in(text_of(context), "ran"), ".");
    return shmworker_context_set_result(context, "ran", 3, NULL);
}

static int32_t fail(struct shmworker_context *context, void *user_data) {
    (void)user_data;
    append(in(text_of(context), "failed"), ".");
    return shmworker_context_fail_for_good(context, "Refused", "for the sake of it");
}

static struct shmworker_handlers *all_handlers(void) {
    struct shmworker_handlers *handlers;
    EXPECT(OK, shmworker_handlers_new(&handlers));
    EXPECT(OK, shmworker_handlers_add(handlers, "square", square, NULL));
    EXPECT(OK, shmworker_handlers_add(handlers, "hold", hold, NULL));
    EXPECT(OK, shmworker_handlers_add(handlers, "run", run, NULL));
    EXPECT(OK, shmworker_handlers_add(handlers, "fail", fail, NULL));
    return handlers;
}

// ---- programs -------------------------------------------------------------------------------------------------------

// A pool in this directory.
static struct shmworker_pool *start(const char *way, const char *dir, size_t workers, const char *name) {
    struct shmworker_pool_options options = {.size = sizeof options, .workers = workers, .name = name, .grace_ms = 100};
    struct shmworker_pool *pool;
    options.file = in(dir, "state");
    if (strcmp(way, "exec") == 0) {
        const int32_t code = shmworker_pool_exec(exe, (const char *[]){"work", NULL}, &options, &pool);
        // Its coordinator may be killed a moment before it is.
        if (code == SHMWORKER_RESULT_NOT_STARTED && strstr(shmworker_last_error(), "SIGKILL")) exit(EXIT_FAILURE);
        EXPECT_CODE(SHMWORKER_RESULT_OK, code);
        return pool;
    }
    struct shmworker_handlers *handlers = all_handlers();
    EXPECT(OK, shmworker_pool_fork(handlers, &options, &pool));
    EXPECT(OK, shmworker_handlers_free(handlers));
    return pool;
}

static struct shmworker_task *submit(struct shmworker_pool *pool, const char *name, const char *input, const char *key) {
    struct shmworker_task_options options = {.size = sizeof options, .key = key};
    struct shmworker_task *task;
    EXPECT(OK, shmworker_pool_submit(pool, name, input, strlen(input), &options, &task));
    return task;
}

// What came of it is this text, after so many attempts.
static struct shmworker_outcome ends(struct shmworker_task *task, const char *text, uint32_t attempts) {
    struct shmworker_outcome outcome = {.size = sizeof outcome};
    EXPECT(OK, shmworker_task_wait(task, -1, &outcome));
    // As above.
    if (outcome.code == SHMWORKER_RESULT_POOL_ENDED && strstr(outcome.message, "SIGKILL")) exit(EXIT_FAILURE);
    EXPECT_TRUE(outcome.code == SHMWORKER_RESULT_OK && outcome.attempts == attempts);
    EXPECT_TRUE(outcome.len == strlen(text) && memcmp(outcome.data, text, outcome.len) == 0);
    return outcome;
}

// The tasks of former lives, in whatever order they are found.
enum { MOST_ADOPTED = 8 };
static struct shmworker_adopted adopted[MOST_ADOPTED];
static struct shmworker_task *adopted_tasks[MOST_ADOPTED];

// Finds all: so many. Then there are no more.
static void adopt(struct shmworker_pool *pool, size_t n) {
    int32_t code;
    size_t found = 0;
    for (;; found++) {
        EXPECT_TRUE(found < MOST_ADOPTED);
        adopted[found] = (struct shmworker_adopted){.size = sizeof *adopted};
        code = shmworker_pool_next_adopted(pool, &adopted[found], &adopted_tasks[found]);
        if (code != SHMWORKER_RESULT_OK) break;
        EXPECT_TRUE(adopted[found].is_json == 0);
    }
    EXPECT_CODE(SHMWORKER_RESULT_NOT_FOUND, code);
    EXPECT_TRUE(adopted_tasks[found] == NULL && found == n);
}

// The one of this handler and key.
static struct shmworker_task *found(const char *name, const char *key) {
    for (size_t i = 0; i < MOST_ADOPTED; i++) {
        const struct shmworker_adopted *one = &adopted[i];
        if (adopted_tasks[i] != NULL && strcmp(one->name, name) == 0 &&
            (key == NULL ? one->key == NULL : one->key != NULL && strcmp(one->key, key) == 0)) {
            return adopted_tasks[i];
        }
    }
    fprintf(stderr, "nothing was found for '%s' with the key '%s'\n", name, key == NULL ? "none" : key);
    exit(EXIT_FAILURE);
}

struct square {
    uint64_t x;
    struct shmworker_task *task;
};

// Puts the result where it is to stay, and lets it go. False: the pool was lost.
static int keep(FILE *out, struct square one) {
    struct shmworker_outcome outcome = {.size = sizeof outcome};
    uint64_t result;
    EXPECT(OK, shmworker_task_wait(one.task, -1, &outcome));
    if (outcome.code != SHMWORKER_RESULT_OK) {
        EXPECT_TRUE(outcome.code == SHMWORKER_RESULT_POOL_ENDED);
        return 0;
    }
    EXPECT_TRUE(outcome.len == sizeof result);
    memcpy(&result, outcome.data, sizeof result);
    // One write, of which a death leaves all or nothing, or what has no end of a line.
    EXPECT_TRUE(fprintf(out, "%llu %llu\n", (unsigned long long)one.x, (unsigned long long)result) > 0 && fflush(out) == 0);
    EXPECT(OK, shmworker_task_free(one.task));
    return 1;
}

// Which squares stand in a file, each once, which loses what is behind its last whole line.
static uint64_t whole_lines(const char *path, char *is_there, uint64_t n) {
    FILE *file = fopen(path, "r");
    unsigned long long x, result;
    uint64_t count = 0;
    long whole = 0;
    char line[64];
    if (file == NULL) return 0;
    while (fgets(line, sizeof line, file) != NULL && strchr(line, '\n') != NULL) {
        EXPECT_TRUE(sscanf(line, "%llu %llu", &x, &result) == 2 && x < n && result == x * x);
        EXPECT_TRUE(!is_there[x]);
        is_there[x] = 1, count++, whole = ftell(file);
    }
    fclose(file);
    EXPECT_TRUE(truncate(path, whole) == 0);
    return count;
}

static int squares(const char *way, const char *dir, uint64_t n) {
    enum { AHEAD = 100 };
    static struct square ahead[AHEAD];
    char *is_done = calloc(n, 1), *is_accepted = calloc(n, 1), key[32];
    struct shmworker_task_options options = {.size = sizeof options, .key = key, .max_attempts = 255};
    struct shmworker_pool *pool = start(way, dir, 2, NULL);
    struct shmworker_adopted found = {.size = sizeof found};
    struct square one;
    uint64_t begun = 0, kept = 0;
    int32_t code;
    whole_lines(in(dir, "out"), is_done, n);
    FILE *out = fopen(in(dir, "out"), "a");
    EXPECT_TRUE(out != NULL);
    while ((code = shmworker_pool_next_adopted(pool, &found, &one.task)) == SHMWORKER_RESULT_OK) {
        uint8_t input[sizeof one.x];
        size_t len;
        one.x = strtoull(found.key, NULL, 10);
        EXPECT_TRUE(strcmp(found.name, "square") == 0 && one.x < n && !is_accepted[one.x]);
        EXPECT(OK, shmworker_task_input(one.task, input, sizeof input, &len));
        EXPECT_TRUE(len == sizeof one.x && memcmp(input, &one.x, len) == 0);
        is_accepted[one.x] = 1;
        append(in(dir, "adopted"), ".");
        if (is_done[one.x]) {
            // It was killed before it had let this one go.
            EXPECT(OK, shmworker_task_free(one.task));
        } else if (!keep(out, one)) {
            return EXIT_FAILURE;
        }
    }
    EXPECT_CODE(SHMWORKER_RESULT_NOT_FOUND, code);
    for (one.x = 0; one.x < n; one.x++) {
        if (is_accepted[one.x] || is_done[one.x]) continue;
        if (begun - kept == AHEAD && !keep(out, ahead[kept++ % AHEAD])) return EXIT_FAILURE;
        snprintf(key, sizeof key, "%llu", (unsigned long long)one.x);
        code = shmworker_pool_submit(pool, "square", &one.x, sizeof one.x, &options, &one.task);
        if (code == SHMWORKER_RESULT_POOL_ENDED) return EXIT_FAILURE;
        EXPECT_CODE(SHMWORKER_RESULT_OK, code);
        ahead[begun++ % AHEAD] = one;
    }
    while (kept < begun) {
        if (!keep(out, ahead[kept++ % AHEAD])) return EXIT_FAILURE;
    }
    fclose(out);
    free(is_done);
    free(is_accepted);
    EXPECT(OK, shmworker_pool_free(pool));
    return EXIT_SUCCESS;
}

// Says who its coordinator is, and then, if it is not killed before, who has run its tasks.
static int holds(const char *way, const char *dir) {
    struct shmworker_pool *pool = start(way, dir, 1, NULL);
    struct shmworker_task *tasks[] = {submit(pool, "hold", dir, "held"), submit(pool, "run", dir, "behind it")};
    char text[32];
    int32_t pid;
    EXPECT(OK, shmworker_pool_coordinator_pid(pool, &pid));
    snprintf(text, sizeof text, "%d\n", pid);
    append(in(dir, "coordinator"), text);
    const uint32_t by[] = {ends(tasks[0], "held", 1).pid, ends(tasks[1], "ran", 1).pid};
    snprintf(text, sizeof text, "%u %u\n", by[0], by[1]);
    append(in(dir, "by"), text);
    EXPECT(OK, shmworker_task_free(tasks[0]));
    EXPECT(OK, shmworker_task_free(tasks[1]));
    EXPECT(OK, shmworker_pool_free(pool));
    return EXIT_SUCCESS;
}

static char *pool_name(const char *dir) {
    static char name[64];
    snprintf(name, sizeof name, "ffi-state-%s", strrchr(dir, '-') + 1);
    return name;
}

static int serves(const char *dir) {
    struct shmworker_pool *pool = start("fork", dir, 1, pool_name(dir));
    adopt(pool, 0);
    append(in(dir, "serves"), ".");
    until_there(in(dir, "over"));
    EXPECT(OK, shmworker_pool_free(pool));
    return EXIT_SUCCESS;
}

static struct shmworker_pool *attach(const char *dir) {
    struct shmworker_attach_options options = {.size = sizeof options, .client = "nightly"};
    struct shmworker_pool *pool;
    EXPECT(OK, shmworker_pool_attach_with(pool_name(dir), &options, &pool));
    return pool;
}

static int nightly(const char *dir) {
    struct shmworker_pool *pool = attach(dir);
    struct shmworker_outcome outcome = {.size = sizeof outcome};
    adopt(pool, 0);
    ends(submit(pool, "run", dir, "in hand"), "ran", 1);
    struct shmworker_task *task = submit(pool, "hold", dir, NULL);
    shmworker_task_wait(task, -1, &outcome);
    return EXIT_FAILURE; // it is killed before
}

static int work(void) {
    struct shmworker_handlers *handlers = all_handlers();
    int exit_code;
    EXPECT(OK, shmworker_worker_run(handlers, NULL, &exit_code));
    EXPECT(OK, shmworker_handlers_free(handlers));
    return exit_code;
}

// ---- what scenes share ----------------------------------------------------------------------------------------------

static char mark[64];

// Starts this program anew, marked.
static pid_t begin(const char *role, const char *second, const char *third, const char *fourth) {
    static unsigned next;
    snprintf(mark, sizeof mark, MARK "=%d-%u", (int)getpid(), next++);
    pid_t child = fork();
    if (child == 0) {
        // A test that fails leaves nothing.
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        setenv(MARK, strchr(mark, '=') + 1, 1);
        execl(exe, exe, role, second, third, fourth, (char *)NULL);
        _exit(127);
    }
    EXPECT_TRUE(child > 0);
    return child;
}

// Is this process one of those that were marked last?
static int is_marked(const char *pid) {
    static char environment[1 << 16];
    char path[64];
    snprintf(path, sizeof path, "/proc/%.20s/environ", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t len = 0, more;
    // A file of the kernel's comes a page at a time.
    while ((more = read(fd, environment + len, sizeof environment - (size_t)len)) > 0) len += more;
    close(fd);
    return len > 0 && memmem(environment, (size_t)len, mark, strlen(mark) + 1) != NULL;
}

static uint64_t random_below(uint64_t n) {
    static uint64_t state; // xorshift (Marsaglia 2003)
    if (state == 0) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        state = (uint64_t)now.tv_nsec << 20 | (uint64_t)getpid() | 1;
        fprintf(stderr, "seed %llu\n", (unsigned long long)state);
    }
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state % n;
}

// Kills all processes that were marked last, in any order, and reaps the first of them.
static void kill_all(pid_t child) {
    for (;;) {
        pid_t found[64];
        size_t n = 0;
        DIR *all = opendir("/proc");
        for (struct dirent *entry; (entry = readdir(all)) != NULL && n < 64;) {
            if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' && is_marked(entry->d_name)) {
                found[n++] = (pid_t)atoi(entry->d_name);
            }
        }
        closedir(all);
        if (n == 0) break;
        while (n > 0) {
            const size_t one = random_below(n);
            kill(found[one], SIGKILL);
            found[one] = found[--n];
        }
    }
    EXPECT_TRUE(waitpid(child, NULL, 0) == child);
}

static void ends_well(pid_t child) {
    int status;
    EXPECT_TRUE(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SUCCESS);
}

static uint64_t now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

// ---- scenes ---------------------------------------------------------------------------------------------------------

static void each_result_is_had_once(const char *way) {
    enum { STEP = 3000, MOST = 100000 };
    static char is_there[MOST];
    const char *said = getenv("SHMWORKER_STATE_KILLS");
    const int kills = said == NULL ? 10 : atoi(said);
    char trial[64], dir[64], number[32];
    uint64_t n = STEP, began = now_us();
    new_directory(trial);
    new_directory(dir);
    snprintf(number, sizeof number, "%d", STEP);
    ends_well(begin("squares", way, trial, number));
    const uint64_t longest = now_us() - began;
    remove_directory(trial);
    for (int i = 0; i < kills || size_of(in(dir, "adopted")) == 0; i++) {
        memset(is_there, 0, sizeof is_there);
        // There is always something to do.
        for (uint64_t done = whole_lines(in(dir, "out"), is_there, n); done > n - STEP / 2;) n += STEP / 2;
        EXPECT_TRUE(n < MOST);
        snprintf(number, sizeof number, "%llu", (unsigned long long)n);
        pid_t child = begin("squares", way, dir, number);
        const uint64_t life = random_below(longest);
        began = now_us();
        while (now_us() - began < life) {
        }
        kill_all(child);
    }
    ends_well(begin("squares", way, dir, number));
    memset(is_there, 0, sizeof is_there);
    EXPECT_TRUE(whole_lines(in(dir, "out"), is_there, n) == n);
    remove_directory(dir);
}

static void first_line(const char *path, char *line, int size) {
    FILE *file = fopen(path, "r");
    EXPECT_TRUE(file != NULL && fgets(line, size, file) != NULL && fclose(file) == 0);
}

// Program and coordinator are killed: the worker goes on with its attempt, and works for the next pool.
static void workers_wait_for_another_coordinator(const char *way) {
    char dir[64], line[32];
    unsigned held, behind_it;
    new_directory(dir);
    pid_t child = begin("holds", way, dir, NULL);
    until_larger(in(dir, "began"), 0);
    until_larger(in(dir, "coordinator"), 0);
    first_line(in(dir, "coordinator"), line, sizeof line);
    EXPECT_TRUE(kill(atoi(line), SIGKILL) == 0 && kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
    const off_t said = size_of(in(dir, "coordinator"));
    child = begin("holds", way, dir, NULL);
    until_larger(in(dir, "coordinator"), said);
    append(in(dir, "end"), ".");
    ends_well(child);
    first_line(in(dir, "by"), line, sizeof line);
    EXPECT_TRUE(sscanf(line, "%u %u", &held, &behind_it) == 2 && held != 0 && held == behind_it);
    EXPECT_TRUE(size_of(in(dir, "began")) == 1 && size_of(in(dir, "ran")) == 1);
    remove_directory(dir);
}

// The coordinator is killed, and the program goes on: what it frees then is there again, whether it had asked for it or not.
static void a_pool_that_was_lost_keeps_what_nobody_has_had(void) {
    char dir[64];
    struct shmworker_outcome outcome = {.size = sizeof outcome};
    struct shmworker_task *tasks[4];
    int32_t coordinator;
    new_directory(dir);
    struct shmworker_pool *pool = start("fork", dir, 1, NULL);
    struct shmworker_task *had = submit(pool, "run", dir, "had");
    ends(had, "ran", 1);
    // The one worker runs them in this order.
    tasks[0] = submit(pool, "run", dir, "has run");
    tasks[1] = submit(pool, "fail", dir, "has failed");
    tasks[2] = submit(pool, "hold", dir, "runs");
    tasks[3] = submit(pool, "run", dir, NULL);
    until_larger(in(dir, "began"), 0);
    EXPECT(OK, shmworker_pool_coordinator_pid(pool, &coordinator));
    EXPECT_TRUE(kill(coordinator, SIGKILL) == 0);
    EXPECT(OK, shmworker_task_wait(tasks[2], -1, &outcome));
    EXPECT_TRUE(outcome.code == SHMWORKER_RESULT_POOL_ENDED && outcome.message[0] != 0);
    EXPECT(OK, shmworker_task_free(had));
    for (int i = 0; i < 4; i++) {
        EXPECT(OK, shmworker_task_free(tasks[i]));
    }
    EXPECT(OK, shmworker_pool_free(pool));
    append(in(dir, "end"), ".");
    // Its worker has waited for this one.
    pool = start("fork", dir, 1, NULL);
    adopt(pool, 4);
    tasks[0] = found("run", "has run");
    tasks[1] = found("fail", "has failed");
    tasks[2] = found("hold", "runs");
    tasks[3] = found("run", NULL);
    ends(tasks[0], "ran", 1);
    ends(tasks[2], "held", 1);
    ends(tasks[3], "ran", 1);
    EXPECT(OK, shmworker_task_wait(tasks[1], -1, &outcome));
    EXPECT_TRUE(outcome.code == SHMWORKER_RESULT_TASK_FAILED && strstr(outcome.message, "for the sake of it"));
    EXPECT_TRUE(size_of(in(dir, "ran")) == 3 && size_of(in(dir, "failed")) == 1);
    // What is left is there again at the next start, a failure too; what is freed is not.
    EXPECT(OK, shmworker_task_leave(tasks[0]));
    EXPECT(OK, shmworker_task_leave(tasks[1]));
    EXPECT(OK, shmworker_task_free(tasks[2]));
    EXPECT(OK, shmworker_task_free(tasks[3]));
    EXPECT(STALE_HANDLE, shmworker_task_leave(tasks[0]));
    tasks[3] = submit(pool, "run", dir, "not waited for");
    EXPECT(OK, shmworker_task_leave(tasks[3]));
    // Left before it was waited for, it is whose who gives its key again: freed by that one, it is gone.
    tasks[3] = submit(pool, "run", dir, "asked for again");
    EXPECT(OK, shmworker_task_leave(tasks[3]));
    tasks[3] = submit(pool, "run", dir, "asked for again");
    ends(tasks[3], "ran", 1);
    EXPECT(OK, shmworker_task_free(tasks[3]));
    tasks[3] = submit(pool, "run", dir, "not wanted");
    EXPECT(OK, shmworker_task_free(tasks[3]));
    EXPECT(OK, shmworker_pool_free(pool));
    EXPECT_TRUE(size_of(in(dir, "ran")) == 6);
    pool = start("fork", dir, 1, NULL);
    // One is asked for by its key: nothing runs for it.
    tasks[0] = submit(pool, "run", dir, "has run");
    adopt(pool, 2);
    tasks[1] = found("fail", "has failed");
    tasks[3] = found("run", "not waited for");
    ends(tasks[0], "ran", 1);
    // Who has too little room has not had it.
    char copy[3];
    EXPECT(TOO_LARGE, shmworker_task_finish(tasks[3], -1, copy, 2, &outcome));
    EXPECT(OK, shmworker_task_finish(tasks[3], -1, copy, 3, &outcome));
    EXPECT_TRUE(outcome.len == 3 && memcmp(copy, "ran", 3) == 0 && size_of(in(dir, "ran")) == 6);
    EXPECT(OK, shmworker_task_free(tasks[0]));
    EXPECT(OK, shmworker_task_finish(tasks[1], -1, NULL, 0, &outcome));
    EXPECT(OK, shmworker_task_finish(submit(pool, "run", dir, NULL), -1, copy, 3, &outcome));
    EXPECT(OK, shmworker_pool_free(pool));
    pool = start("fork", dir, 1, NULL);
    adopt(pool, 0);
    EXPECT(OK, shmworker_pool_free(pool));
    remove_directory(dir);
}

// A client with a name is killed: the next of that name has its tasks.
static void a_client_with_a_name_has_a_successor(void) {
    struct shmworker_attach_options options = {.size = sizeof options, .client = "nightly"};
    struct shmworker_pool *pool, *other;
    struct shmworker_task *task, *held;
    char dir[64], input[64];
    size_t len;
    new_directory(dir);
    pid_t owner = begin("serves", "fork", dir, NULL);
    until_there(in(dir, "serves"));
    pid_t client = begin("nightly", dir, NULL, NULL);
    until_larger(in(dir, "began"), 0);
    EXPECT_TRUE(kill(client, SIGKILL) == 0 && waitpid(client, NULL, 0) == client);
    pool = attach(dir);
    EXPECT(REFUSED, shmworker_pool_attach_with(pool_name(dir), &options, &other));
    EXPECT_TEXT("a process has attached under this name");
    EXPECT_TRUE(other == NULL);
    options.client = "main";
    EXPECT(REFUSED, shmworker_pool_attach_with(pool_name(dir), &options, &other));
    EXPECT_TEXT("that is the name of the program that has made it");
    adopt(pool, 2);
    task = found("run", "in hand");
    held = found("hold", NULL);
    // What has no key is known by its input.
    EXPECT(TOO_LARGE, shmworker_task_input(held, input, 1, &len));
    EXPECT_TRUE(len == strlen(dir));
    EXPECT(OK, shmworker_task_input(held, input, sizeof input, &len));
    EXPECT_TRUE(len == strlen(dir) && memcmp(input, dir, len) == 0);
    append(in(dir, "end"), ".");
    ends(task, "ran", 1);
    ends(held, "held", 1);
    EXPECT_TRUE(size_of(in(dir, "began")) == 1 && size_of(in(dir, "ran")) == 1);
    EXPECT(OK, shmworker_task_leave(task));
    EXPECT(OK, shmworker_task_free(held));
    EXPECT(OK, shmworker_pool_free(pool));
    pool = attach(dir);
    adopt(pool, 1);
    task = found("run", "in hand");
    EXPECT(OK, shmworker_task_free(task));
    EXPECT(OK, shmworker_pool_shutdown(pool, 1000));
    EXPECT(POOL_ENDED, shmworker_pool_next_adopted(pool, NULL, &task));
    EXPECT(OK, shmworker_pool_free(pool));
    // One without a name, whose input is not kept.
    EXPECT(OK, shmworker_pool_attach_with(pool_name(dir), NULL, &pool));
    adopt(pool, 0);
    task = submit(pool, "run", dir, NULL);
    EXPECT(NOT_FOUND, shmworker_task_input(task, input, sizeof input, &len));
    ends(task, "ran", 1);
    EXPECT(OK, shmworker_task_leave(task));
    EXPECT(OK, shmworker_pool_free(pool));
    append(in(dir, "over"), ".");
    ends_well(owner);
    remove_directory(dir);
}

static void a_file_or_a_name_that_is_no_good_is_told(void) {
    struct shmworker_handlers *handlers = all_handlers();
    struct shmworker_pool_options options = {.size = sizeof options, .workers = 1};
    struct shmworker_attach_options attach_options = {.size = sizeof attach_options};
    struct shmworker_pool *pool, *other;
    struct shmworker_task *task;
    char dir[64];
    new_directory(dir);
    char state[128];
    snprintf(state, sizeof state, "%s/state", dir);
    options.file = state;
    append(state, "hello");
    EXPECT(FILE_UNFIT, shmworker_pool_fork(handlers, &options, &pool));
    EXPECT_TEXT("not a segment: a file of 5 bytes");
    EXPECT_TRUE(pool == NULL && unlink(state) == 0);
    options.file = in(dir, "none/state");
    EXPECT(OS_ERROR, shmworker_pool_fork(handlers, &options, &pool));
    EXPECT_TEXT("none/state");
    options.file = state;
    const char *const wrong[] = {"", "a b", "../a", "\xc3\xa9", "a-name-of-more-than-32-letters-is-none"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        options.client = wrong[i];
        EXPECT(INVALID_ARGUMENT, shmworker_pool_fork(handlers, &options, &pool));
        EXPECT_TEXT("invalid client name");
    }
    options.client = "\xff";
    EXPECT(INVALID_UTF8, shmworker_pool_fork(handlers, &options, &pool));
    options.client = NULL;
    options.sync = 2;
    EXPECT(INVALID_ARGUMENT, shmworker_pool_fork(handlers, &options, &pool));
    EXPECT_TEXT("options.sync is 2");
    options.sync = SHMWORKER_SYNC_EVERY_BATCH;
    options.reserved2 = 1;
    EXPECT(INVALID_ARGUMENT, shmworker_pool_fork(handlers, &options, &pool));
    EXPECT_TEXT("options.reserved2 is 1");
    EXPECT_TRUE(access(state, F_OK) != 0);
    // One that was compiled before there were files has none, whatever stands there.
    options.size = offsetof(struct shmworker_pool_options, file);
    EXPECT(OK, shmworker_pool_fork(handlers, &options, &pool));
    EXPECT(OK, shmworker_pool_free(pool));
    EXPECT_TRUE(access(state, F_OK) != 0);

    options = (struct shmworker_pool_options){.size = sizeof options, .workers = 1, .file = state, .name = pool_name(dir)};
    options.sync = SHMWORKER_SYNC_EVERY_BATCH, options.client = "maker";
    EXPECT(OK, shmworker_pool_fork(handlers, &options, &pool));
    EXPECT(FILE_IN_USE, shmworker_pool_exec(exe, (const char *[]){"work", NULL}, &options, &other));
    EXPECT_TEXT("belongs to a pool that is alive");
    struct shmworker_task_options task_options = {.size = sizeof task_options, .key = ""};
    EXPECT(INVALID_ARGUMENT, shmworker_pool_submit(pool, "run", dir, strlen(dir), &task_options, &task));
    EXPECT_TEXT("invalid key");
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        attach_options.client = wrong[i];
        EXPECT(INVALID_ARGUMENT, shmworker_pool_attach_with(options.name, &attach_options, &other));
        EXPECT_TEXT("invalid client name");
    }
    attach_options.client = "maker";
    EXPECT(REFUSED, shmworker_pool_attach_with(options.name, &attach_options, &other));
    attach_options.client = "weekly";
    append(in(dir, "state.journal.weekly"), "hello");
    EXPECT(FILE_UNFIT, shmworker_pool_attach_with(options.name, &attach_options, &other));
    EXPECT_TEXT("is no journal");
    EXPECT_TRUE(unlink(in(dir, "state.journal.weekly")) == 0);
    attach_options.sync = 9;
    EXPECT(INVALID_ARGUMENT, shmworker_pool_attach_with(options.name, &attach_options, &other));
    EXPECT_TEXT("options.sync is 9");
    EXPECT(OK, shmworker_pool_free(pool));

    // What it was made for it is.
    const char *const queues[] = {"urgent", "default"};
    options.queues = queues, options.queue_count = 2;
    EXPECT(FILE_UNFIT, shmworker_pool_fork(handlers, &options, &pool));
    EXPECT_TEXT("has the queues default, not urgent, default");
    int fd = open(state, O_RDWR | O_CLOEXEC);
    const uint64_t version = 99;
    EXPECT_TRUE(fd >= 0 && pwrite(fd, &version, sizeof version, sizeof version) == sizeof version && close(fd) == 0);
    options.queues = NULL, options.queue_count = 0;
    EXPECT(ABI_MISMATCH, shmworker_pool_fork(handlers, &options, &pool));
    EXPECT_TEXT("layout version 99");

    // A name, in a pool that lies in no file.
    options = (struct shmworker_pool_options){.size = sizeof options, .workers = 1, .name = pool_name(dir)};
    EXPECT(OK, shmworker_pool_fork(handlers, &options, &pool));
    adopt(pool, 0);
    attach_options = (struct shmworker_attach_options){.size = sizeof attach_options, .client = "nightly"};
    EXPECT(REFUSED, shmworker_pool_attach_with(options.name, &attach_options, &other));
    EXPECT_TEXT("it does not lie in a file");
    EXPECT(OK, shmworker_pool_free(pool));
    EXPECT(NOT_RUNNING, shmworker_pool_attach_with(options.name, &attach_options, &other));
    EXPECT(OK, shmworker_handlers_free(handlers));
    remove_directory(dir);
}

static void every_misuse_has_its_code(void) {
    struct shmworker_attach_options options = {.size = sizeof options};
    struct shmworker_adopted found = {.size = sizeof found};
    struct shmworker_pool_options pool_options = {.size = sizeof pool_options, .workers = 1};
    struct shmworker_pool *pool = (struct shmworker_pool *)(uintptr_t)1, *of_this;
    struct shmworker_task *task = (struct shmworker_task *)(uintptr_t)1, *none;
    char dir[64], copy[8];
    size_t len = 9;
    EXPECT(NULL_ARGUMENT, shmworker_pool_attach_with(NULL, NULL, &pool));
    EXPECT_TRUE(pool == NULL);
    EXPECT(NULL_ARGUMENT, shmworker_pool_attach_with("a", &options, NULL));
    EXPECT(INVALID_UTF8, shmworker_pool_attach_with("\xff", &options, &pool));
    EXPECT(NOT_RUNNING, shmworker_pool_attach_with("no-such-pool", &options, &pool));
    EXPECT(INVALID_ARGUMENT, shmworker_pool_attach_with("a", &(struct shmworker_attach_options){.size = 8}, &pool));
    EXPECT(UNSUPPORTED, shmworker_pool_attach_with("a", &(struct shmworker_attach_options){.size = SIZE_MAX}, &pool));
    options.reserved = 1;
    EXPECT(INVALID_ARGUMENT, shmworker_pool_attach_with("a", &options, &pool));
    EXPECT(NULL_ARGUMENT, shmworker_pool_next_adopted(NULL, &found, &task));
    EXPECT_TRUE(task == NULL);
    EXPECT(NULL_ARGUMENT, shmworker_pool_next_adopted(NULL, NULL, NULL));
    EXPECT(STALE_HANDLE, shmworker_pool_next_adopted((struct shmworker_pool *)(void *)&found, &found, &task));
    EXPECT(NULL_ARGUMENT, shmworker_task_input(NULL, copy, sizeof copy, &len));
    EXPECT_TRUE(len == 0);
    EXPECT(NULL_ARGUMENT, shmworker_task_input(NULL, NULL, 0, NULL));
    EXPECT(STALE_HANDLE, shmworker_task_input((struct shmworker_task *)(uintptr_t)UINTPTR_MAX, copy, sizeof copy, &len));
    EXPECT(NULL_ARGUMENT, shmworker_task_leave(NULL));
    EXPECT(STALE_HANDLE, shmworker_task_leave((struct shmworker_task *)(void *)&found));

    new_directory(dir);
    of_this = start("fork", dir, 1, NULL);
    task = submit(of_this, "run", dir, NULL);
    EXPECT(NULL_ARGUMENT, shmworker_pool_next_adopted(of_this, &found, NULL));
    EXPECT(NULL_ARGUMENT, shmworker_task_input(task, copy, sizeof copy, NULL));
    EXPECT(NULL_ARGUMENT, shmworker_task_input(task, NULL, 1, &len));
    EXPECT(INVALID_ARGUMENT, shmworker_task_input(task, copy, SIZE_MAX, &len));
    EXPECT(TOO_LARGE, shmworker_task_input(task, NULL, 0, &len));
    EXPECT_TRUE(len == strlen(dir));
    EXPECT(STALE_HANDLE, shmworker_pool_next_adopted((struct shmworker_pool *)(void *)task, &found, &none));
    EXPECT(INVALID_ARGUMENT, shmworker_pool_next_adopted(of_this, &(struct shmworker_adopted){.size = 8}, &none));
    EXPECT(UNSUPPORTED, shmworker_pool_next_adopted(of_this, &(struct shmworker_adopted){.size = SIZE_MAX}, &none));
    EXPECT_TRUE(none == NULL);
    // A child has nothing of it.
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        EXPECT(STALE_HANDLE, shmworker_pool_next_adopted(of_this, &found, &none));
        EXPECT(STALE_HANDLE, shmworker_task_leave(task));
        _exit(EXIT_SUCCESS);
    }
    ends_well(child);
    EXPECT(OK, shmworker_pool_free(of_this));
    EXPECT(STALE_HANDLE, shmworker_pool_next_adopted(of_this, &found, &none));
    // As long as it has a task of that pool, this process has the file.
    pool_options.file = in(dir, "state");
    EXPECT(FILE_IN_USE, shmworker_pool_exec(exe, (const char *[]){"work", NULL}, &pool_options, &pool));
    EXPECT(OK, shmworker_task_free(task));
    of_this = start("exec", dir, 1, NULL);
    adopt(of_this, 0);
    EXPECT(OK, shmworker_pool_free(of_this));
    remove_directory(dir);
}

int main(int argc, char **argv) {
    EXPECT_TRUE(readlink("/proc/self/exe", exe, sizeof exe - 1) > 0);
    if (argc == 2 && strcmp(argv[1], "work") == 0) return work();
    if (argc == 3 && strcmp(argv[1], "nightly") == 0) return nightly(argv[2]);
    if (argc == 4 && strcmp(argv[1], "holds") == 0) return holds(argv[2], argv[3]);
    if (argc == 4 && strcmp(argv[1], "serves") == 0) return serves(argv[3]);
    if (argc == 5) return squares(argv[2], argv[3], strtoull(argv[4], NULL, 10));
    alarm(600);
    every_misuse_has_its_code();
    a_file_or_a_name_that_is_no_good_is_told();
    a_client_with_a_name_has_a_successor();
    a_pool_that_was_lost_keeps_what_nobody_has_had();
    workers_wait_for_another_coordinator("fork");
    workers_wait_for_another_coordinator("exec");
    each_result_is_had_once("fork");
    each_result_is_had_once("exec");
    puts("whoever is killed, each result is had once");
    return EXIT_SUCCESS;
}
