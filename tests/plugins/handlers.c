// What the tests of plug-ins call, as tasks of a pool and as activities. Handlers and tests meet in files, whose directory is an
// argument.

#define _DEFAULT_SOURCE
#include <shmworker.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// A text argument, with or without the quotes of JSON.
static int32_t text(struct shmworker_context *context, size_t index, char *out, size_t room) {
    struct shmworker_payload payload;
    int32_t result = shmworker_context_argument(context, index, &payload);
    if (result) {
        return result;
    }
    size_t quote = payload.len >= 2 && payload.data[0] == '"';
    snprintf(out, room, "%.*s", (int)(payload.len - 2 * quote), (const char *)payload.data + quote);
    return SHMWORKER_RESULT_OK;
}

// Tells the test something: whole, or not there.
static void note(const char *dir, const char *name, long n) {
    char draft[4096], path[4096];
    snprintf(draft, sizeof draft, "%s/%s.draft", dir, name);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(draft, "w");
    if (!file || fprintf(file, "%ld", n) < 0 || fclose(file) || rename(draft, path)) abort();
}

static bool exists(const char *dir, const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return access(path, F_OK) == 0;
}

static int32_t give(struct shmworker_context *context, const char *json) {
    return shmworker_context_set_result(context, json, strlen(json), "json/plain");
}

// Its first argument, as it is encoded.
static int32_t echo(struct shmworker_context *context, void *user_data) {
    (void)user_data;
    struct shmworker_payload payload;
    int32_t result = shmworker_context_argument(context, 0, &payload);
    return result ? result : shmworker_context_set_result(context, payload.data, payload.len, payload.encoding);
}

// The bytes of its argument the other way round, written in place; of more room than that.
static int32_t reverse(struct shmworker_context *context, void *user_data) {
    (void)user_data;
    struct shmworker_payload payload;
    uint8_t *out;
    int32_t result = shmworker_context_argument(context, 0, &payload);
    if (!result) result = shmworker_context_reserve(context, payload.len + 100, &out);
    if (result) {
        return result;
    }
    for (size_t i = 0; i < payload.len; ++i) out[i] = payload.data[payload.len - 1 - i];
    return shmworker_context_set_length(context, payload.len);
}

// Nothing.
static int32_t nothing(struct shmworker_context *context, void *user_data) {
    (void)context, (void)user_data;
    return SHMWORKER_RESULT_OK;
}

// As many bytes as its argument says.
static int32_t large(struct shmworker_context *context, void *user_data) {
    (void)user_data;
    char bytes[32];
    uint8_t *out;
    int32_t result = text(context, 0, bytes, sizeof bytes);
    if (!result) result = shmworker_context_reserve(context, (size_t)atol(bytes), &out);
    if (!result) memset(out, 'x', (size_t)atol(bytes));
    return result;
}

// What stands behind the arguments: how many there are, the encoding and the length of each.
static int32_t describe(struct shmworker_context *context, void *user_data) {
    (void)user_data;
    char json[1024] = "\"";
    size_t count = shmworker_context_argument_count(context), len = 1;
    for (size_t i = 0; i < count; ++i) {
        struct shmworker_payload payload;
        if (shmworker_context_argument(context, i, &payload)) {
            return SHMWORKER_RESULT_FAILED;
        }
        len += (size_t)snprintf(json + len, sizeof json - len, "%s %zu, ", payload.encoding, payload.len);
    }
    const char *name = shmworker_context_info(context, SHMWORKER_INFO_NAME);
    const char *workflow = shmworker_context_info(context, SHMWORKER_INFO_WORKFLOW_TYPE);
    snprintf(json + len, sizeof json - len, "%s of %s\"", name, workflow ? workflow : "nobody");
    return give(context, json);
}

// The first attempt counts to 1,000 and goes no further; the others say where that was.
static int32_t count(struct shmworker_context *context, void *user_data) {
    (void)user_data;
    char dir[4000], json[32];
    if (text(context, 0, dir, sizeof dir)) {
        return SHMWORKER_RESULT_FAILED;
    }
    if (shmworker_context_attempt(context) > 1) {
        struct shmworker_payload last;
        int32_t result = shmworker_context_last_checkpoint(context, &last);
        return result ? result : shmworker_context_set_result(context, last.data, last.len, "json/plain");
    }
    for (int n = 1; n <= 1000; ++n) {
        snprintf(json, sizeof json, "%d", n);
        int32_t result = shmworker_context_checkpoint(context, json, strlen(json), "json/plain");
        if (result) {
            return result;
        }
    }
    note(dir, "counted", (long)getpid());
    for (;;) pause();
}

// Fails in the way that its second argument, or its only one, names.
static int32_t fail(struct shmworker_context *context, void *user_data) {
    (void)user_data;
    char how[64];
    if (text(context, 0, how, sizeof how)) {
        return SHMWORKER_RESULT_FAILED;
    }
    if (strcmp(how, "for good") == 0) {
        return shmworker_context_fail_for_good(context, "CardExpired", "the card has expired");
    }
    if (strcmp(how, "once") == 0) {
        bool is_first = shmworker_context_attempt(context) == 1;
        return is_first ? shmworker_context_fail(context, NULL, "not yet") : give(context, "\"at last\"");
    }
    if (strcmp(how, "with details") == 0) {
        struct shmworker_failure failure;
        memset(&failure, 0, sizeof failure);
        failure.size = sizeof failure;
        failure.message = "no room in the vault";
        failure.type = "VaultFull";
        failure.non_retryable = true;
        failure.details = (const uint8_t *)"{\"vault\":7}";
        failure.details_len = 11;
        failure.details_encoding = "json/plain";
        return shmworker_context_fail_with(context, &failure);
    }
    return 42;
}

// Says that it runs, and ends as soon as it is cancelled, as cancelled.
static int32_t until_cancelled(struct shmworker_context *context, bool heartbeats) {
    char dir[4000];
    if (text(context, 0, dir, sizeof dir)) {
        return SHMWORKER_RESULT_FAILED;
    }
    note(dir, "waits", (long)getpid());
    while (!shmworker_context_is_cancelled(context)) {
        if (heartbeats) shmworker_context_heartbeat(context);
        usleep(1000);
    }
    return SHMWORKER_RESULT_CANCELLED;
}

static int32_t wait(struct shmworker_context *context, void *user_data) {
    (void)user_data;
    return until_cancelled(context, true);
}

// As `wait`, without a heartbeat of its own.
static int32_t doze(struct shmworker_context *context, void *user_data) {
    (void)user_data;
    return until_cancelled(context, false);
}

// Never ends, and looks at nothing.
static int32_t spin(struct shmworker_context *context, void *user_data) {
    (void)user_data;
    char dir[4000];
    if (text(context, 0, dir, sizeof dir)) {
        return SHMWORKER_RESULT_FAILED;
    }
    note(dir, "waits", (long)getpid());
    for (;;) {
        pause();
    }
}

// Runs until the test says "go on".
static int32_t hold(struct shmworker_context *context, void *user_data) {
    (void)user_data;
    char dir[4000];
    if (text(context, 0, dir, sizeof dir)) {
        return SHMWORKER_RESULT_FAILED;
    }
    note(dir, "holds", (long)getpid());
    while (!exists(dir, "go on")) {
        shmworker_context_progress(context, 1, 2);
        usleep(1000);
    }
    return give(context, "\"held\"");
}

// Crashes at its first attempt, and says so.
static int32_t crash(struct shmworker_context *context, void *user_data) {
    (void)user_data;
    volatile int *nowhere = NULL;
    if (shmworker_context_attempt(context) == 1) {
        printf("it crashes\n");
        *nowhere = 1;
    }
    return give(context, "\"recovered\"");
}

struct state {
    long pid;
    const char *dir;
};

// What this process has made at its start.
static int32_t state(struct shmworker_context *context, void *user_data) {
    (void)user_data;
    struct state *state = (struct state *)shmworker_context_state(context);
    char json[64];
    snprintf(json, sizeof json, "%ld", state && state->pid == (long)getpid() ? 1L : 0L);
    return give(context, json);
}

#define EXPECT(result, call)                                                                             \
    do {                                                                                                   \
        long got = (long)(call);                                                                             \
        if (got != (long)(result)) {                                                                         \
            char why[256];                                                                                     \
            snprintf(why, sizeof why, "line %d gives %ld", __LINE__, got);                                     \
            return shmworker_context_fail_for_good(context, "Unexpected", why);                                \
        }                                                                                                    \
    } while (0)

// Every function with what is no good for it.
static int32_t misuse(struct shmworker_context *context, void *user_data) {
    (void)user_data;
    struct shmworker_payload payload;
    const uint8_t *data;
    size_t len;
    uint8_t *place;
    const char *latin = "\xe9";
    EXPECT(SHMWORKER_RESULT_NULL_ARGUMENT, shmworker_context_argument(NULL, 0, &payload));
    EXPECT(SHMWORKER_RESULT_NULL_ARGUMENT, shmworker_context_argument(context, 0, NULL));
    EXPECT(SHMWORKER_RESULT_NOT_FOUND, shmworker_context_argument(context, SIZE_MAX, &payload));
    EXPECT(0, shmworker_context_attempt(NULL));
    EXPECT(0, shmworker_context_argument_count(NULL));
    EXPECT(true, shmworker_context_info(NULL, SHMWORKER_INFO_NAME) == NULL);
    EXPECT(true, shmworker_context_info(context, 4711) == NULL);
    EXPECT(SHMWORKER_RESULT_NULL_ARGUMENT, shmworker_context_metadata(context, 0, NULL, &data, &len));
    EXPECT(SHMWORKER_RESULT_NOT_FOUND, shmworker_context_metadata(context, 0, "no such key", &data, &len));
    EXPECT(SHMWORKER_RESULT_NULL_ARGUMENT, shmworker_context_reserve(NULL, 1, &place));
    EXPECT(SHMWORKER_RESULT_NULL_ARGUMENT, shmworker_context_reserve(context, 1, NULL));
    EXPECT(SHMWORKER_RESULT_TOO_LARGE, shmworker_context_reserve(context, SIZE_MAX, &place));
    EXPECT(SHMWORKER_RESULT_INVALID_ARGUMENT, shmworker_context_set_length(context, 0));
    EXPECT(SHMWORKER_RESULT_OK, shmworker_context_reserve(context, 10, &place));
    EXPECT(SHMWORKER_RESULT_INVALID_ARGUMENT, shmworker_context_set_length(context, 11));
    EXPECT(SHMWORKER_RESULT_NULL_ARGUMENT, shmworker_context_set_encoding(context, NULL));
    EXPECT(SHMWORKER_RESULT_INVALID_UTF8, shmworker_context_set_encoding(context, latin));
    EXPECT(SHMWORKER_RESULT_NULL_ARGUMENT, shmworker_context_set_result(context, NULL, 1, NULL));
    EXPECT(SHMWORKER_RESULT_TOO_LARGE, shmworker_context_set_result(context, "x", SIZE_MAX, NULL));
    EXPECT(SHMWORKER_RESULT_OK, shmworker_context_set_result(context, NULL, 0, NULL));
    // Of what is reserved itself.
    EXPECT(SHMWORKER_RESULT_OK, shmworker_context_reserve(context, 100000, &place));
    memset(place, 'x', 100000);
    EXPECT(SHMWORKER_RESULT_OK, shmworker_context_set_result(context, place + 1, 99999, NULL));
    EXPECT(SHMWORKER_RESULT_NULL_ARGUMENT, shmworker_context_fail_with(context, NULL));
    EXPECT(SHMWORKER_RESULT_NULL_ARGUMENT, shmworker_context_fail(context, NULL, NULL));
    EXPECT(SHMWORKER_RESULT_INVALID_UTF8, shmworker_context_fail(context, latin, "message"));
    struct shmworker_failure failure;
    memset(&failure, 0, sizeof failure);
    EXPECT(SHMWORKER_RESULT_INVALID_ARGUMENT, shmworker_context_fail_with(context, &failure));
    EXPECT(false, shmworker_context_is_cancelled(NULL));
    EXPECT(false, shmworker_context_is_worker_shutdown(NULL));
    EXPECT(-1, shmworker_context_time_left_ms(NULL));
    EXPECT(SHMWORKER_RESULT_NULL_ARGUMENT, shmworker_context_heartbeat(NULL));
    EXPECT(SHMWORKER_RESULT_NULL_ARGUMENT, shmworker_context_progress(NULL, 1, 2));
    EXPECT(SHMWORKER_RESULT_NULL_ARGUMENT, shmworker_context_checkpoint(context, NULL, 1, NULL));
    EXPECT(SHMWORKER_RESULT_TOO_LARGE, shmworker_context_checkpoint(context, "x", SIZE_MAX, NULL));
    EXPECT(SHMWORKER_RESULT_INVALID_UTF8, shmworker_context_checkpoint(context, "x", 1, latin));
    EXPECT(SHMWORKER_RESULT_NULL_ARGUMENT, shmworker_context_last_checkpoint(NULL, &payload));
    EXPECT(SHMWORKER_RESULT_NOT_FOUND, shmworker_context_last_checkpoint(context, &payload));
    EXPECT(true, shmworker_context_state(NULL) == NULL);
    EXPECT(SHMWORKER_RESULT_WRONG_TIME, shmworker_host_handler((const struct shmworker_host *)user_data, "late", echo, NULL));
    EXPECT(SHMWORKER_RESULT_NULL_ARGUMENT, shmworker_host_log((const struct shmworker_host *)user_data, 1, NULL));
    return give(context, "\"all refused\"");
}

static int32_t begin(void *user_data, void **made) {
    shmworker_host_log((const struct shmworker_host *)user_data, SHMWORKER_LOG_LEVEL_WARN, "a state is made");
    if (getenv("PLUGIN_WITHOUT_STATE")) {
        return 7;
    }
    struct state *state = (struct state *)calloc(1, sizeof *state);
    if (!state) {
        return ENOMEM;
    }
    state->pid = (long)getpid();
    state->dir = getenv("PLUGIN_DIR");
    *made = state;
    return 0;
}

static void end(void *user_data, void *made) {
    (void)user_data;
    struct state *state = (struct state *)made;
    if (state->dir) {
        char name[64];
        snprintf(name, sizeof name, "ended %ld", state->pid);
        note(state->dir, name, state->pid);
    }
    free(state);
}

SHMWORKER_PLUGIN(host) {
    const struct {
        const char *name;
        shmworker_handler_fn run;
    } handlers[] = {{"echo", echo},   {"reverse", reverse}, {"nothing", nothing}, {"describe", describe},
                    {"count", count}, {"fail", fail},       {"wait", wait},       {"hold", hold},
                    {"crash", crash}, {"state", state},     {"misuse", misuse},   {"large", large}};
    for (size_t i = 0; i < sizeof handlers / sizeof *handlers; ++i) {
        int32_t result = shmworker_host_handler(host, handlers[i].name, handlers[i].run, (void *)(uintptr_t)host);
        if (result) {
            return result;
        }
    }
    struct shmworker_handler handler;
    memset(&handler, 0, sizeof handler);
    handler.size = sizeof handler;
    handler.abi_major = SHMWORKER_ABI_MAJOR;
    handler.abi_minor = SHMWORKER_ABI_MINOR;
    handler.flags = SHMWORKER_HANDLER_AUTO_HEARTBEAT;
    handler.name = "doze";
    handler.run = doze;
    int32_t result = host->register_handler(host, &handler);
    if (result) {
        return result;
    }
    handler.name = "spin";
    handler.run = spin;
    handler.kill_after_ms = 500;
    result = host->register_handler(host, &handler);
    return result ? result : shmworker_host_state(host, begin, end, (void *)(uintptr_t)host);
}
