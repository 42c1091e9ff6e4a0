
#ifndef SHMWORKER_CONTEXT_H
#define SHMWORKER_CONTEXT_H

// What handlers and plug-ins call. These functions are inline and go through the tables that come with context and host: who
// calls only them links with no library.
//
// Threads: `shmworker_context_` the one on which the handler was called, until it returns; `shmworker_host_log` any; the others of
// `shmworker_host_` that of `shmworker_register`. After a fork: not in the child of a handler.

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

#if defined(__GNUC__)
#define SHMWORKER_EXPORT __attribute__((visibility("default")))
#else
#define SHMWORKER_EXPORT
#endif

// Defines what the host calls: `SHMWORKER_PLUGIN(host) { return shmworker_host_handler(host, "echo", echo, NULL); }`
#ifdef __cplusplus
#define SHMWORKER_PLUGIN(host) \
  extern "C" SHMWORKER_EXPORT int32_t shmworker_register(const struct shmworker_host *host)
#else
#define SHMWORKER_PLUGIN(host) \
  SHMWORKER_EXPORT int32_t shmworker_register(const struct shmworker_host *host); \
  SHMWORKER_EXPORT int32_t shmworker_register(const struct shmworker_host *host)
#endif

// Registers `run` for the tasks, or the Temporal activity, of this name; `user_data` is passed to it as it is.
static inline int32_t shmworker_host_handler(const struct shmworker_host *host, const char *name, shmworker_handler_fn run,
                                             void *user_data) {
  struct shmworker_handler handler = {sizeof(struct shmworker_handler), SHMWORKER_ABI_MAJOR, SHMWORKER_ABI_MINOR, name, run,
                                      user_data, 0, 0};
  return host ? host->register_handler(host, &handler) : (int32_t)SHMWORKER_RESULT_NULL_ARGUMENT;
}

// Registers what makes and undoes the state of each process: `shmworker_context_state`.
static inline int32_t shmworker_host_state(const struct shmworker_host *host, shmworker_init_fn init, shmworker_exit_fn exit,
                                           void *user_data) {
  return host ? host->register_state(host, init, exit, user_data) : (int32_t)SHMWORKER_RESULT_NULL_ARGUMENT;
}

// Writes a line of the log; `level` is a `shmworker_log_level`.
static inline int32_t shmworker_host_log(const struct shmworker_host *host, uint32_t level, const char *message) {
  return host ? host->log(host, level, message) : (int32_t)SHMWORKER_RESULT_NULL_ARGUMENT;
}

// A fact about the task, `which` being a `shmworker_info`. NULL: there is none, as in a pool without Temporal for most. It lives as
// long as the context does.
static inline const char *shmworker_context_info(struct shmworker_context *context, uint32_t which) {
  return context ? context->functions->info(context, which) : 0;
}

// Which attempt this is, from 1. 0: `context` is NULL.
static inline uint32_t shmworker_context_attempt(const struct shmworker_context *context) {
  return context ? context->functions->attempt(context) : 0;
}

// How many arguments there are. In a pool without Temporal always 1.
static inline size_t shmworker_context_argument_count(const struct shmworker_context *context) {
  return context ? context->functions->argument_count(context) : 0;
}

// An argument, in place: it is there until the handler returns. SHMWORKER_RESULT_NOT_FOUND: there are fewer.
static inline int32_t shmworker_context_argument(struct shmworker_context *context, size_t index,
                                                 struct shmworker_payload *payload) {
  return context ? context->functions->argument(context, index, payload) : (int32_t)SHMWORKER_RESULT_NULL_ARGUMENT;
}

// Further metadata of an argument, by its key. SHMWORKER_RESULT_NOT_FOUND: it has none of that key, or there are fewer arguments.
static inline int32_t shmworker_context_metadata(const struct shmworker_context *context, size_t index, const char *key,
                                                 const uint8_t **data, size_t *len) {
  return context ? context->functions->metadata(context, index, key, data, len) : (int32_t)SHMWORKER_RESULT_NULL_ARGUMENT;
}

// Room for a result of so many bytes, in the place of what was left before; without Temporal it is in the shared memory, where the
// submitter will read it. What lies there is unknown: fill it.
static inline int32_t shmworker_context_reserve(struct shmworker_context *context, size_t len, uint8_t **place) {
  return context ? context->functions->reserve(context, len, place) : (int32_t)SHMWORKER_RESULT_NULL_ARGUMENT;
}

// Of what was reserved only the first `len` bytes are the result. SHMWORKER_RESULT_INVALID_ARGUMENT: it was less.
static inline int32_t shmworker_context_set_length(struct shmworker_context *context, size_t len) {
  return context ? context->functions->set_length(context, len) : (int32_t)SHMWORKER_RESULT_NULL_ARGUMENT;
}

// How the result is encoded: "json/plain" for one that other languages are to read as a value. If nobody says so, it is
// "binary/plain"; without any result "binary/null".
static inline int32_t shmworker_context_set_encoding(struct shmworker_context *context, const char *encoding) {
  return context ? context->functions->set_encoding(context, encoding) : (int32_t)SHMWORKER_RESULT_NULL_ARGUMENT;
}

// Copies a result, in the place of what was left before. `encoding` as for `shmworker_context_set_encoding`; NULL: "binary/plain".
static inline int32_t shmworker_context_set_result(struct shmworker_context *context, const void *data, size_t len,
                                                   const char *encoding) {
  return context ? context->functions->set_result(context, (const uint8_t *)data, len, encoding)
                 : (int32_t)SHMWORKER_RESULT_NULL_ARGUMENT;
}

// Says why the task failed. It returns what the handler should return then: SHMWORKER_RESULT_FAILED (or another code, if `failure` is
// no good; that is a failure as well).
static inline int32_t shmworker_context_fail_with(struct shmworker_context *context, const struct shmworker_failure *failure) {
  return context ? context->functions->fail(context, failure) : (int32_t)SHMWORKER_RESULT_NULL_ARGUMENT;
}

// As `shmworker_context_fail_with`, with a type (NULL: none) and a message. There may be further attempts.
static inline int32_t shmworker_context_fail(struct shmworker_context *context, const char *type, const char *message) {
  struct shmworker_failure failure = {sizeof(struct shmworker_failure), message, type, false, 0, 0, 0, 0};
  return shmworker_context_fail_with(context, &failure);
}

// As `shmworker_context_fail`; no further attempt is made.
static inline int32_t shmworker_context_fail_for_good(struct shmworker_context *context, const char *type,
                                                      const char *message) {
  struct shmworker_failure failure = {sizeof(struct shmworker_failure), message, type, true, 0, 0, 0, 0};
  return shmworker_context_fail_with(context, &failure);
}

// Should it end? Then let the handler return SHMWORKER_RESULT_CANCELLED. An activity hears of its cancellation only through
// its heartbeats.
static inline bool shmworker_context_is_cancelled(const struct shmworker_context *context) {
  return context && context->functions->is_cancelled(context);
}

// Temporal: is this worker about to end? What runs may finish; past the grace period it is cancelled.
static inline bool shmworker_context_is_worker_shutdown(const struct shmworker_context *context) {
  return context && context->functions->is_worker_shutdown(context);
}

// Milliseconds that this attempt may go on. -1: nobody has set a limit, or `context` is NULL.
static inline int64_t shmworker_context_time_left_ms(const struct shmworker_context *context) {
  return context ? context->functions->time_left_ms(context) : -1;
}

// A sign of life. The checkpoint stays.
static inline int32_t shmworker_context_heartbeat(struct shmworker_context *context) {
  return context ? context->functions->heartbeat(context) : (int32_t)SHMWORKER_RESULT_NULL_ARGUMENT;
}

// How far it has come, in units of its own; a sign of life too.
static inline int32_t shmworker_context_progress(struct shmworker_context *context, uint64_t done, uint64_t total) {
  return context ? context->functions->progress(context, done, total) : (int32_t)SHMWORKER_RESULT_NULL_ARGUMENT;
}

// Keeps these bytes for the next attempt, in the place of those before; a sign of life too. A death at any instruction leaves
// either whole. Temporal: a heartbeat with these details. `encoding` NULL: "binary/plain"; it is kept by Temporal only.
static inline int32_t shmworker_context_checkpoint(struct shmworker_context *context, const void *data, size_t len,
                                                   const char *encoding) {
  return context ? context->functions->checkpoint(context, (const uint8_t *)data, len, encoding)
                 : (int32_t)SHMWORKER_RESULT_NULL_ARGUMENT;
}

// What an earlier attempt has kept last; it is there until the handler returns. SHMWORKER_RESULT_NOT_FOUND: nothing.
static inline int32_t shmworker_context_last_checkpoint(struct shmworker_context *context, struct shmworker_payload *payload) {
  return context ? context->functions->last_checkpoint(context, payload) : (int32_t)SHMWORKER_RESULT_NULL_ARGUMENT;
}

// What `init` of `shmworker_host_state` has made in this process. NULL: there is none.
static inline void *shmworker_context_state(const struct shmworker_context *context) {
  return context ? context->functions->state(context) : 0;
}

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  // SHMWORKER_CONTEXT_H
