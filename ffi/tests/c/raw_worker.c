// A worker for Temporal in C, under no SDK: it serves the sample workflows and their activity from the raw lanes, whichever of them
// it is started for.
//
//   shmworker run -w 2 -a 1 --workflow-program ./raw_worker --activity-program ./raw_worker
//   raw_worker attach POOL LANES
//
// Workflows: ParallelizedWorkflow, TimerWorkflow as in `src/temporal/sample.rs`; HoldWorkflow, whose activity runs until it is
// cancelled, or for another time; LargeWorkflow, whose result has as many bytes as its input says; SpinWorkflow, which does not
// yield if it is the first to make the directory RAW_WORKER_SPIN; LocalWorkflow, whose activity is a local one; GarbledWorkflow, whose
// completion nobody can read. With RAW_WORKER_EVICTS the first run that is parked is to be evicted.

#include "protobuf.h"
#include "shmworker.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

static struct shmworker_temporal *lanes;

static void must(int32_t code, const char *what) {
    if (code == SHMWORKER_RESULT_OK) return;
    fprintf(stderr, "%s: %s (%" PRId32 ")\n", what, shmworker_last_error(), code);
    exit(1);
}

static void say(const char *what, bytes id) {
    printf("%s %.*s\n", what, (int)id.len, (const char *)id.data);
    fflush(stdout);
}

// ---- payloads -----------------------------------------------------------------------------------------------------------

static writer payload(bytes json) {
    writer entry = {0}, w = {0};
    put(&entry, 1, text("encoding"));
    put(&entry, 2, text("json/plain"));
    put_message(&w, 1, entry);
    put(&w, 2, json);
    return w;
}

static writer duration(uint64_t millis) {
    writer w = {0};
    put_number(&w, 1, millis / 1000);
    put_number(&w, 2, millis % 1000 * 1000000);
    return w;
}

static uint64_t number_in(bytes payload_) {
    char digits[24] = {0};
    bytes json = find(payload_, 2).data;
    if (json.len && json.len < sizeof digits) memcpy(digits, json.data, json.len);
    return strtoull(digits, NULL, 10);
}

// ---- workflows ----------------------------------------------------------------------------------------------------------

// A run that this process has, suspended.
typedef struct run {
    struct run *next;
    char *id;
    bytes type;
    uint64_t input;
    char *echoed;
    bool is_parked;
} run;

static run *runs;

static char *copy(bytes b) {
    char *s = calloc(1, b.len + 1);
    if (!s) abort();
    if (b.len) memcpy(s, b.data, b.len);
    return s;
}

static run *run_of(bytes id) {
    for (run *r = runs; r; r = r->next)
        if (is(id, r->id)) return r;
    return NULL;
}

static void begin(bytes id, bytes init) {
    run *r = calloc(1, sizeof *r);
    if (!r) abort();
    *r = (run){.next = runs, .id = copy(id), .type = text(copy(find(init, 1).data)), .input = number_in(find(init, 3).data)};
    runs = r;
}

static void forget(bytes id) {
    for (run **r = &runs; *r; r = &(*r)->next) {
        if (!is(id, (*r)->id)) continue;
        run *gone = *r;
        *r = gone->next;
        free(gone->id);
        free((void *)gone->type.data);
        free(gone->echoed);
        free(gone);
        return;
    }
}

static void command(writer *commands, uint32_t variant, writer message) {
    writer c = {0};
    put_message(&c, variant, message);
    put_message(commands, 1, c);
}

static void schedule(writer *commands, const char *type, bytes argument) {
    writer c = {0};
    put_number(&c, 1, 1);
    put(&c, 2, text("1"));
    put(&c, 3, text(type));
    put(&c, 5, text("activity-task-queue"));
    put_message(&c, 7, payload(argument));
    put_message(&c, 10, duration(60000));
    command(commands, 2, c);
}

static void schedule_local(writer *commands, const char *type, bytes argument) {
    writer c = {0};
    put_number(&c, 1, 1);
    put(&c, 2, text("1"));
    put(&c, 3, text(type));
    put_number(&c, 4, 1); // attempt
    put_message(&c, 7, payload(argument));
    put_message(&c, 10, duration(60000));
    command(commands, 16, c);
}

static void end(writer *commands, bytes json) {
    writer c = {0};
    put_message(&c, 1, payload(json));
    command(commands, 6, c);
}

static void end_with_pid(writer *commands, const char *echoed) {
    // What the activity gave is a JSON string, which this one goes on with.
    size_t len = strlen(echoed);
    char *result = malloc(len + 64);
    if (!result) abort();
    sprintf(result, "%.*s | wf-ending-pid:%d\"", (int)(len ? len - 1 : 0), echoed, (int)getpid());
    end(commands, text(result));
    free(result);
}

// What this program makes of a job; false: nothing.
static bool do_job(bytes run_id, field job, writer *commands) {
    char starting[64];
    run *r = run_of(run_id);
    switch (job.number) {
    case 1: // initialize_workflow
        if (r) return false;
        begin(run_id, job.data);
        r = runs;
        sprintf(starting, "\"wf-starting-pid:%d\"", (int)getpid());
        if (is(r->type, "ParallelizedWorkflow") || is(r->type, "TimerWorkflow")) {
            schedule(commands, "echo_pid_activity", text(starting));
        } else if (is(r->type, "LocalWorkflow")) {
            schedule_local(commands, "echo_pid_activity", text(starting));
        } else if (is(r->type, "GarbledWorkflow")) {
            put(commands, 1, text("\xff"));
        } else if (is(r->type, "HoldWorkflow")) {
            schedule(commands, "hold", text(starting));
        } else if (is(r->type, "LargeWorkflow")) {
            char *large = malloc(r->input + 2);
            if (!large) abort();
            memset(large, 'x', r->input + 2);
            large[0] = large[r->input + 1] = '"';
            end(commands, (bytes){(uint8_t *)large, r->input + 2});
            free(large);
        } else if (is(r->type, "SpinWorkflow")) {
            // As no workflow should; the one that comes after it finds the directory.
            const char *once = getenv("RAW_WORKER_SPIN");
            if (once && !mkdir(once, 0700)) {
                say("spinning", run_id);
                for (;;) pause();
            }
            end(commands, text(starting));
        } else {
            return false;
        }
        return true;
    case 2: // fire_timer
        if (!r) return false;
        end_with_pid(commands, r->echoed);
        return true;
    case 8: { // resolve_activity
        field completed = find(find(job.data, 2).data, 1);
        if (!r || completed.number == 0) return false;
        r->echoed = copy(find(find(completed.data, 1).data, 2).data);
        if (is(r->type, "TimerWorkflow")) {
            writer c = {0};
            put_number(&c, 1, 1); // timers are counted by themselves, as in any SDK: another may replay this
            put_message(&c, 2, duration(r->input));
            command(commands, 1, c);
            r->is_parked = true;
        } else {
            end_with_pid(commands, r->echoed);
        }
        return true;
    }
    case 4:  // update_random_seed
    case 9:  // notify_has_patch
        return true;
    case 50: // remove_from_cache
        say("evicted", run_id);
        forget(run_id);
        return true;
    default: return false;
    }
}

static writer failure(const char *why) {
    writer w = {0}, info = {0};
    put(&w, 1, text(why));
    put(&info, 1, text("RawWorker"));
    put_message(&w, 5, info); // application_failure_info
    return w;
}

static void activate(bytes activation) {
    bytes run_id = find(activation, 1).data;
    // The bytes are gone once they are answered.
    char *id = copy(run_id);
    bytes rest = activation;
    writer commands = {0}, completion = {0};
    bool is_known = true;
    for (field f; next_field(&rest, &f);) {
        field job;
        bytes jobs = f.data;
        if (f.number == 5 && next_field(&jobs, &job)) is_known = do_job(run_id, job, &commands) && is_known;
    }
    put(&completion, 1, run_id);
    if (is_known) {
        put_message(&completion, 2, commands);
    } else {
        writer failed = {0};
        free(commands.data);
        put_message(&failed, 1, failure("this program cannot serve that"));
        put_message(&completion, 3, failed);
    }
    int32_t code = shmworker_temporal_complete_workflow(lanes, completion.data, completion.len);
    if (code == SHMWORKER_RESULT_TOO_LARGE) {
        writer failed = {0};
        completion.len = 0;
        put(&completion, 1, run_id);
        put_message(&failed, 1, failure(shmworker_last_error()));
        put_message(&completion, 3, failed);
        code = shmworker_temporal_complete_workflow(lanes, completion.data, completion.len);
    }
    must(code, "complete an activation");
    // Not before: a death from here on finds it parked.
    run *r = run_of(text(id));
    if (r && r->is_parked) {
        static bool has_asked;
        say("parked", text(id));
        if (getenv("RAW_WORKER_EVICTS") && !has_asked) {
            has_asked = true;
            must(shmworker_temporal_request_eviction(lanes, (const uint8_t *)id, strlen(id)), "ask for an eviction");
        }
    }
    if (r) r->is_parked = false;
    free(id);
    free(completion.data);
}

// ---- activities ---------------------------------------------------------------------------------------------------------

static void complete_attempt(bytes token, uint32_t status, writer result) {
    writer completion = {0}, w = {0};
    put_message(&w, status, result);
    put(&completion, 1, token);
    put_message(&completion, 2, w);
    must(shmworker_temporal_complete_activity(lanes, completion.data, completion.len), "complete an attempt");
    free(completion.data);
}

static void attempt(bytes task) {
    bytes token = find(task, 1).data, start = find(task, 3).data;
    field cancel = find(task, 4);
    writer result = {0};
    if (cancel.number) {
        uint64_t reason = find(cancel.data, 1).value;
        printf("cancelled: reason %" PRIu64 "\n", reason);
        fflush(stdout);
        put_message(&result, 1, failure("held until it was cancelled"));
        complete_attempt(token, 2, result);
    } else if (is(find(start, 5).data, "echo_pid_activity")) {
        bytes said = find(find(start, 7).data, 2).data;
        char *json = malloc(said.len + 64);
        if (!json) abort();
        sprintf(json, "%.*s | activity-pid:%d\"", (int)(said.len ? said.len - 1 : 0), (const char *)said.data, (int)getpid());
        put_message(&result, 1, payload(text(json)));
        complete_attempt(token, 1, result);
        free(json);
    } else { // hold
        uint64_t number = find(start, 12).value;
        bytes before = find(find(start, 8).data, 2).data;
        char beat[32];
        sprintf(beat, "%" PRIu64, number);
        writer heartbeat = {0};
        put(&heartbeat, 1, token);
        put_message(&heartbeat, 2, payload(text(beat)));
        must(shmworker_temporal_heartbeat(lanes, heartbeat.data, heartbeat.len), "heartbeat");
        free(heartbeat.data);
        printf("holding, attempt %" PRIu64 " after '%.*s'\n", number, (int)before.len, (const char *)before.data);
        fflush(stdout);
        if (number > 1) {
            put_message(&result, 1, payload(text("\"held\"")));
            complete_attempt(token, 1, result);
        }
    }
}

// ---- the loop -----------------------------------------------------------------------------------------------------------

// Serves what there is on a lane. False: it is closed.
static bool serve(uint32_t lane) {
    for (;;) {
        uint32_t found;
        bytes message;
        must(shmworker_temporal_next(lanes, lane, &found, &message.data, &message.len), "look for a message");
        if (found != SHMWORKER_TEMPORAL_FOUND_MESSAGE) return found != SHMWORKER_TEMPORAL_FOUND_CLOSED;
        if (lane == SHMWORKER_TEMPORAL_LANE_WORKFLOW) activate(message);
        else attempt(message);
    }
}

int main(int argc, char **argv) {
    struct shmworker_temporal_options options = {.size = sizeof options};
    bool polls = true;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "attach") && i + 2 < argc) {
            options.pool = argv[++i];
            options.lanes = (uint32_t)atoi(argv[++i]);
            options.activity_slots = options.lanes & SHMWORKER_TEMPORAL_LANE_ACTIVITY ? 10 : 0;
        } else if (!strcmp(argv[i], "wait")) {
            polls = false;
        }
    }
    uint32_t set;
    must(shmworker_temporal_attach(&options, &lanes), "attach");
    must(shmworker_temporal_lanes(lanes, &set, NULL), "ask for the lanes");

    const char *hello = getenv("RAW_WORKER_HELLO");
    if (!hello)
        hello = "{\"workflow_task_queue\": \"workflow-task-queue\", \"activity_task_queue\": \"activity-task-queue\","
                " \"workflows\": [\"ParallelizedWorkflow\", \"TimerWorkflow\", \"HoldWorkflow\", \"LargeWorkflow\", \"SpinWorkflow\","
                " \"LocalWorkflow\", \"GarbledWorkflow\"],"
                " \"activities\": [\"echo_pid_activity\", \"hold\"]}";
    bytes info;
    must(shmworker_temporal_hello(lanes, (const uint8_t *)hello, strlen(hello), &info.data, &info.len), "hello");
    // The limits of the namespace; a dev server doesn't say any.
    find(info, 1);
    say("welcome", text(""));

    int fd = -1;
    if (polls) must(shmworker_temporal_fd(lanes, &fd), "ask for a descriptor");
    uint32_t stage = SHMWORKER_TEMPORAL_STAGE_RUNNING;
    bool is_open[2] = {set & SHMWORKER_TEMPORAL_LANE_WORKFLOW, set & SHMWORKER_TEMPORAL_LANE_ACTIVITY};
    while (is_open[0] || is_open[1]) {
        uint32_t before = stage;
        must(shmworker_temporal_stage_of(lanes, &stage), "ask for the stage");
        if (stage != before) {
            printf("stage %" PRIu32 "\n", stage);
            fflush(stdout);
        }
        if (is_open[0]) is_open[0] = serve(SHMWORKER_TEMPORAL_LANE_WORKFLOW);
        if (is_open[1]) is_open[1] = serve(SHMWORKER_TEMPORAL_LANE_ACTIVITY);
        if (!is_open[0] && !is_open[1]) break;
        if (polls) {
            struct pollfd p = {.fd = fd, .events = POLLIN};
            if (poll(&p, 1, -1) < 0 && errno != EINTR) return 71;
        } else {
            must(shmworker_temporal_wait(lanes, set, -1), "wait");
        }
    }
    while (runs) forget(text(runs->id));
    must(shmworker_temporal_free(lanes), "free");
    return EXIT_SUCCESS;
}
