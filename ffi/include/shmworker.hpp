// C++17 over shmworker.h: objects that free themselves, exceptions for codes, lambdas for handlers.
//
// What each call does, and which threads may call it, stands in shmworker.h.

#ifndef SHMWORKER_HPP
#define SHMWORKER_HPP

#include "shmworker.h"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace shmworker {

// A call has failed: `shmworker_last_error`, and its code.
class error : public std::runtime_error {
public:
    error(int32_t code, const std::string &text) : std::runtime_error(text), code_(code) {}
    int32_t code() const noexcept { return code_; }

private:
    int32_t code_;
};

inline void check(int32_t code) {
    if (code != SHMWORKER_RESULT_OK) {
        throw error(code, shmworker_last_error());
    }
}

// Throws if the library that was loaded is not one for this header.
inline void check_abi() { check(shmworker_check_abi(SHMWORKER_ABI_MAJOR, SHMWORKER_ABI_MINOR)); }

// Items that somebody else owns: std::span, as far as C++17 needs it.
template <typename T> class span {
public:
    span() noexcept = default;
    span(T *data, std::size_t size) noexcept : data_(data), size_(size) {}
    template <typename U, typename = std::enable_if_t<std::is_convertible_v<U (*)[], T (*)[]>>>
    span(span<U> other) noexcept : data_(other.data()), size_(other.size()) {}

    T *data() const noexcept { return data_; }
    std::size_t size() const noexcept { return size_; }
    bool empty() const noexcept { return size_ == 0; }
    T *begin() const noexcept { return data_; }
    T *end() const noexcept { return data_ + size_; }
    T &operator[](std::size_t i) const noexcept { return data_[i]; }

private:
    T *data_ = nullptr;
    std::size_t size_ = 0;
};

// Bytes, to be read as text or as plain values.
class bytes : public span<const std::uint8_t> {
public:
    using span::span;
    bytes(std::string_view text) noexcept : span(reinterpret_cast<const std::uint8_t *>(text.data()), text.size()) {}
    bytes(const std::string &text) noexcept : bytes(std::string_view(text)) {}
    bytes(const char *text) noexcept : bytes(std::string_view(text)) {}

    // The bytes of a value that may be copied as such.
    template <typename T> static bytes of(const T &value) noexcept {
        static_assert(std::is_trivially_copyable_v<T>, "the bytes of this type mean nothing to another process");
        return bytes(reinterpret_cast<const std::uint8_t *>(&value), sizeof value);
    }

    std::string_view text() const noexcept { return {reinterpret_cast<const char *>(data()), size()}; }

    // A copy of the value that they are. Throws std::length_error if they are more or fewer.
    template <typename T> T as() const {
        static_assert(std::is_trivially_copyable_v<T>, "bytes are no value of this type");
        if (size() != sizeof(T)) {
            throw std::length_error(std::to_string(size()) + " bytes are no value of " + std::to_string(sizeof(T)));
        }
        T value;
        std::memcpy(&value, data(), sizeof value);
        return value;
    }
};

// Thrown by a handler: the task has failed. Any other std::exception is a failure too, one that may be tried again.
class failure : public std::runtime_error {
public:
    explicit failure(const std::string &message, std::string type = {}, bool is_permanent = false)
        : std::runtime_error(message), type_(std::move(type)), is_permanent_(is_permanent) {}

    // No further attempt: it would fail as well.
    static failure permanent(const std::string &message, std::string type = {}) {
        return failure(message, std::move(type), true);
    }

    // How long until the next attempt, if there is one. Not used in a pool without Temporal.
    failure &next_retry_delay(std::chrono::milliseconds delay) noexcept {
        next_retry_delay_ = delay;
        return *this;
    }

    // Facts beside the message, for programs. Not used in a pool without Temporal.
    failure &details(std::string data, std::string encoding = "json/plain") {
        details_ = std::move(data);
        encoding_ = std::move(encoding);
        return *this;
    }

    const std::string &type() const noexcept { return type_; }
    bool is_permanent() const noexcept { return is_permanent_; }

    // As `tell`, of another exception.
    static std::int32_t retold(shmworker_context *raw, const std::exception &other) noexcept {
        try {
            return failure(other.what()).tell(raw);
        } catch (const std::exception &) {
            return SHMWORKER_RESULT_FAILED; // there is no memory for its text
        }
    }

    // Says all this of the attempt; what it returns, the handler returns. Of texts that are not UTF-8 the bytes are replaced that are
    // not ASCII.
    std::int32_t tell(shmworker_context *raw) const noexcept {
        const auto code = tell(raw, what(), type_.c_str(), encoding_.c_str());
        if (code != SHMWORKER_RESULT_INVALID_UTF8) {
            return code;
        }
        try {
            return tell(raw, ascii(what()).c_str(), ascii(type_).c_str(), ascii(encoding_).c_str());
        } catch (const std::exception &) {
            return tell(raw, "", "", "");
        }
    }

private:
    static std::string ascii(std::string text) {
        for (auto &c : text) {
            if (static_cast<unsigned char>(c) > 127) {
                c = '?';
            }
        }
        return text;
    }

    std::int32_t tell(shmworker_context *raw, const char *message, const char *type, const char *encoding) const noexcept {
        shmworker_failure said{};
        said.size = sizeof said;
        said.message = message;
        said.type = *type == 0 ? nullptr : type;
        said.non_retryable = is_permanent_;
        said.next_retry_delay_ms = static_cast<std::uint64_t>(next_retry_delay_.count() < 0 ? 0 : next_retry_delay_.count());
        if (details_) {
            said.details = reinterpret_cast<const std::uint8_t *>(details_->data());
            said.details_len = details_->size();
            said.details_encoding = encoding;
        }
        return shmworker_context_fail_with(raw, &said);
    }

    std::string type_;
    bool is_permanent_;
    std::chrono::milliseconds next_retry_delay_{0};
    std::optional<std::string> details_;
    std::string encoding_;
};

// Thrown by a handler that ends since it was asked to.
struct cancelled : std::exception {
    const char *what() const noexcept override { return "the task was cancelled"; }
};

// What a handler sees of the attempt that it runs. It lives until the handler returns, on its thread.
class context {
public:
    explicit context(shmworker_context *raw) noexcept : raw_(raw) {}

    // The input, in place.
    bytes input(std::size_t index = 0) const {
        shmworker_payload payload{};
        check(shmworker_context_argument(raw_, index, &payload), "read the input");
        return bytes(payload.data, payload.len);
    }

    // How many arguments there are: 1, but for a Temporal activity.
    std::size_t arguments() const noexcept { return shmworker_context_argument_count(raw_); }

    // How an argument is encoded: `json/plain`, `binary/plain` …
    std::string_view encoding(std::size_t index = 0) const {
        shmworker_payload payload{};
        check(shmworker_context_argument(raw_, index, &payload), "read the input");
        return payload.encoding;
    }

    // Further metadata of an argument. Nothing: it has none of that key.
    std::optional<bytes> metadata(const char *key, std::size_t index = 0) const {
        const std::uint8_t *data = nullptr;
        std::size_t len = 0;
        const auto code = shmworker_context_metadata(raw_, index, key, &data, &len);
        if (code == SHMWORKER_RESULT_NOT_FOUND) {
            return std::nullopt;
        }
        check(code, "read the metadata");
        return bytes(data, len);
    }

    // A fact about the task, `which` being a `shmworker_info`. Empty: there is none.
    std::string_view info(std::uint32_t which) const noexcept {
        const char *fact = shmworker_context_info(raw_, which);
        return fact ? fact : "";
    }

    // Room for the result, to be filled in place.
    span<std::uint8_t> reserve(std::size_t len) const {
        std::uint8_t *place = nullptr;
        check(shmworker_context_reserve(raw_, len, &place), "reserve room for the result");
        return {place, len};
    }

    // Of what was reserved, only so many bytes are the result.
    void set_length(std::size_t len) const { check(shmworker_context_set_length(raw_, len), "shorten the result"); }

    // How the result is encoded, if it was reserved.
    void set_encoding(const char *encoding) const {
        check(shmworker_context_set_encoding(raw_, encoding), "set the encoding of the result");
    }

    // Copies a result.
    void set_result(bytes result, const char *encoding = nullptr) const {
        check(shmworker_context_set_result(raw_, result.data(), result.size(), encoding), "leave the result");
    }

    std::uint32_t attempt() const noexcept { return shmworker_context_attempt(raw_); }
    bool is_cancelled() const noexcept { return shmworker_context_is_cancelled(raw_); }
    bool is_worker_shutdown() const noexcept { return shmworker_context_is_worker_shutdown(raw_); }

    // Throws `cancelled` if the task is to end.
    void check_cancelled() const {
        if (is_cancelled()) {
            throw cancelled();
        }
    }

    // Nothing: nobody has set a limit.
    std::optional<std::chrono::milliseconds> time_left() const noexcept {
        const auto left = shmworker_context_time_left_ms(raw_);
        return left < 0 ? std::nullopt : std::make_optional(std::chrono::milliseconds(left));
    }

    void heartbeat() const { check(shmworker_context_heartbeat(raw_), "send a heartbeat"); }

    void progress(std::uint64_t done, std::uint64_t total) const {
        check(shmworker_context_progress(raw_, done, total), "tell the progress");
    }

    void checkpoint(bytes data, const char *encoding = nullptr) const {
        check(shmworker_context_checkpoint(raw_, data.data(), data.size(), encoding), "keep a checkpoint");
    }

    std::optional<bytes> last_checkpoint() const {
        shmworker_payload payload{};
        const auto code = shmworker_context_last_checkpoint(raw_, &payload);
        if (code == SHMWORKER_RESULT_NOT_FOUND) {
            return std::nullopt;
        }
        check(code, "read the last checkpoint");
        return bytes(payload.data, payload.len);
    }

    // What `shmworker_handlers_set_state` or a plug-in's init has made.
    void *state() const noexcept { return shmworker_context_state(raw_); }

    // What `handlers::state<T>`, or a plug-in's `host::state<T>`, has this process make.
    template <typename T> T &state_as() const noexcept { return *static_cast<T *>(state()); }
    shmworker_context *raw() const noexcept { return raw_; }

private:
    // A plug-in links no library: it has codes, and no texts for them.
    static void check(std::int32_t code, const char *step) {
        if (code != SHMWORKER_RESULT_OK) {
            throw error(code, std::string("cannot ") + step + ": code " + std::to_string(code));
        }
    }

    shmworker_context *raw_;
};

using handler = std::function<void(context &)>;

// A `shmworker_handler_fn` whose `user_data` is a `handler *`: no exception leaves it.
extern "C" inline std::int32_t shmworker_cpp_run(shmworker_context *raw, void *user_data) {
    try {
        context seen(raw);
        (*static_cast<handler *>(user_data))(seen);
        return SHMWORKER_RESULT_OK;
    } catch (const cancelled &) {
        return SHMWORKER_RESULT_CANCELLED;
    } catch (const failure &e) {
        return e.tell(raw);
    } catch (const std::exception &e) {
        const auto code = shmworker_context_fail(raw, nullptr, e.what());
        return code == SHMWORKER_RESULT_INVALID_UTF8 ? failure::retold(raw, e) : code;
    } catch (...) {
        return shmworker_context_fail(raw, nullptr, "an exception that is no std::exception");
    }
}

namespace detail {
// Runs code on behalf of C: an exception goes to stderr and becomes a code.
template <typename Code> std::int32_t contained(Code &&code) noexcept {
    try {
        std::forward<Code>(code)();
        return SHMWORKER_RESULT_OK;
    } catch (const error &e) {
        std::fprintf(stderr, "%s\n", e.what());
        return e.code();
    } catch (const std::exception &e) {
        std::fprintf(stderr, "%s\n", e.what());
    } catch (...) {
        std::fputs("an exception that is no std::exception\n", stderr);
    }
    return SHMWORKER_RESULT_FAILED;
}

template <typename T> std::int32_t make(void *, void **state) noexcept {
    return contained([&] { *state = new T(); });
}

template <typename T> void destroy(void *, void *state) noexcept { delete static_cast<T *>(state); }
} // namespace detail

// ---- plug-ins: what follows links no library --------------------------------------------------------------------------

// What a plug-in registers with; it stays for as long as the process does.
class host {
public:
    explicit host(const shmworker_host *raw) noexcept : raw_(raw) {}

    // `run` takes a `context &`, on several threads at a time. What it throws is the task's failure.
    host &add(const char *name, handler run) {
        auto kept = std::make_unique<handler>(std::move(run));
        check(shmworker_host_handler(raw_, name, shmworker_cpp_run, kept.get()), "register a handler");
        kept.release();
        return *this;
    }

    // Each process makes a `T` before its first task (`context::state_as`), and destroys it when it ends in order. A constructor
    // that throws ends the process.
    template <typename T> host &state() {
        check(shmworker_host_state(raw_, detail::make<T>, detail::destroy<T>, nullptr), "register a state");
        return *this;
    }

    // A line of the log; `level` is a `shmworker_log_level`.
    void log(std::uint32_t level, const char *message) const noexcept { shmworker_host_log(raw_, level, message); }
    const shmworker_host *raw() const noexcept { return raw_; }

private:
    static void check(std::int32_t code, const char *step) {
        if (code != SHMWORKER_RESULT_OK) {
            throw error(code, std::string("cannot ") + step + ": code " + std::to_string(code));
        }
    }

    const shmworker_host *raw_;
};

// What the body of `SHMWORKER_PLUGIN` returns: `code`, which takes a `host &`, registers.
template <typename Code> std::int32_t plugin(const shmworker_host *raw, Code &&code) noexcept {
    return detail::contained([&] {
        host given(raw);
        std::forward<Code>(code)(given);
    });
}

// ---- what follows is the library's ------------------------------------------------------------------------------------

namespace detail {
template <typename T, std::int32_t (*Free)(T *)> struct free_by {
    // Freed by hand before: then there is nothing to do.
    void operator()(T *raw) const noexcept { Free(raw); }
};
template <typename T, std::int32_t (*Free)(T *)> using owned = std::unique_ptr<T, free_by<T, Free>>;

// Frees a task; as an exception unwinds, leaves it.
struct free_or_leave {
    int exceptions = std::uncaught_exceptions();
    void operator()(shmworker_task *raw) const noexcept {
        std::uncaught_exceptions() > exceptions ? shmworker_task_leave(raw) : shmworker_task_free(raw);
    }
};
} // namespace detail

// Handlers by name. It has to outlive the pools that are made with it.
class handlers {
public:
    handlers() {
        shmworker_handlers *raw = nullptr;
        check(shmworker_handlers_new(&raw));
        raw_.reset(raw);
    }

    // `run` takes a `context &`. What it throws is the task's failure.
    handlers &add(const std::string &name, handler run) {
        // First, so that nothing can fail once it is registered.
        kept_.push_back(std::make_unique<handler>(std::move(run)));
        const auto code = shmworker_handlers_add(raw_.get(), name.c_str(), shmworker_cpp_run, kept_.back().get());
        if (code != SHMWORKER_RESULT_OK) {
            kept_.pop_back();
        }
        check(code);
        return *this;
    }

    // Each worker makes a `T` before its first task (`context::state_as`), and destroys it when it ends in order. A constructor
    // that throws ends the worker.
    template <typename T> handlers &state() {
        check(shmworker_handlers_set_state(raw_.get(), detail::make<T>, detail::destroy<T>, nullptr));
        return *this;
    }

    shmworker_handlers *raw() const noexcept { return raw_.get(); }

private:
    detail::owned<shmworker_handlers, shmworker_handlers_free> raw_;
    std::vector<std::unique_ptr<handler>> kept_;
};

// With the size set, and all else as usual.
struct pool_options : shmworker_pool_options {
    pool_options() noexcept : shmworker_pool_options{} { size = sizeof(shmworker_pool_options); }
};

// With the size set, and all else as usual.
struct task_options : shmworker_task_options {
    task_options() noexcept : shmworker_task_options{} { size = sizeof(shmworker_task_options); }
};

// With the size set, and all else as usual.
struct attach_options : shmworker_attach_options {
    attach_options() noexcept : shmworker_attach_options{} { size = sizeof(shmworker_attach_options); }
};

// How a task ended. It points into its task, which has to live as long; or, by `task::finish`, into what was given there, and its
// message is this thread's last error.
class outcome {
public:
    explicit outcome(const shmworker_outcome &raw) noexcept : raw_(raw) {}

    explicit operator bool() const noexcept { return raw_.code == SHMWORKER_RESULT_OK; }
    std::int32_t code() const noexcept { return raw_.code; }
    std::string_view message() const noexcept { return raw_.message; }
    std::uint32_t attempts() const noexcept { return raw_.attempts; }
    std::uint32_t pid() const noexcept { return raw_.pid; }
    int signal() const noexcept { return raw_.signal; }
    int exit_code() const noexcept { return raw_.exit_code; }

    // The result, in place. Throws an `error` if there is none.
    bytes value() const {
        if (raw_.code != SHMWORKER_RESULT_OK) {
            throw error(raw_.code, raw_.message);
        }
        return bytes(raw_.data, raw_.len);
    }

private:
    shmworker_outcome raw_;
};

// A task that was submitted. In a pool that lies in a file its result stays in the file until this is destroyed, and also after that if
// an exception does it: what could not be put where it is to stay is there again at the next start.
class task {
public:
    explicit task(shmworker_task *raw) noexcept : raw_(raw) {}

    outcome wait() const { return *wait_ms(-1); }

    // Nothing: the time is over.
    std::optional<outcome> wait_for(std::chrono::milliseconds at_most) const {
        return wait_ms(at_most.count() < 0 ? 0 : at_most.count());
    }

    // As `wait`, with a copy of the result in `place`, where the outcome's value is then; the task is freed. Throws an `error` with
    // SHMWORKER_RESULT_TOO_LARGE if that has too little room: the task is as it was.
    outcome finish(span<std::uint8_t> place) && {
        shmworker_outcome ended{};
        ended.size = sizeof ended;
        check(shmworker_task_finish(raw_.get(), -1, place.data(), place.size(), &ended));
        static_cast<void>(raw_.release());
        return outcome(ended);
    }

    void cancel() const { check(shmworker_task_cancel(raw_.get())); }

    // A copy of its input, in a pool that lies in a file.
    std::vector<std::uint8_t> input() const {
        std::vector<std::uint8_t> copy;
        for (;;) {
            std::size_t len = 0;
            const auto code = shmworker_task_input(raw_.get(), copy.data(), copy.size(), &len);
            if (code != SHMWORKER_RESULT_TOO_LARGE) {
                check(code);
                copy.resize(len);
                return copy;
            }
            copy.resize(len);
        }
    }

    // Frees it; in a pool that lies in a file its result stays there.
    void leave() && { check(shmworker_task_leave(raw_.release())); }

    // The pool's `event_fd` and `next_event` tell of its end, with `user_data`.
    void notify(void *user_data = nullptr) const { check(shmworker_task_notify(raw_.get(), user_data)); }

    shmworker_task *raw() const noexcept { return raw_.get(); }

private:
    std::optional<outcome> wait_ms(std::int64_t at_most) const {
        shmworker_outcome ended{};
        ended.size = sizeof ended;
        const auto code = shmworker_task_wait(raw_.get(), at_most, &ended);
        if (code == SHMWORKER_RESULT_NOT_READY) {
            return std::nullopt;
        }
        check(code);
        return outcome(ended);
    }

    std::unique_ptr<shmworker_task, detail::free_or_leave> raw_;
};

// A task of a former life of a pool that lies in a file. Its texts are there as long as the task.
class adopted {
public:
    adopted(const shmworker_adopted &raw, shmworker::task task) noexcept : raw_(raw), task_(std::move(task)) {}

    // The handler that it is for. Empty: this program has no such handler, or the pool does not tell.
    std::string_view name() const noexcept { return raw_.name; }

    // The key that it was submitted with. Nothing: none.
    std::optional<std::string_view> key() const noexcept {
        return raw_.key ? std::make_optional<std::string_view>(raw_.key) : std::nullopt;
    }

    bool is_json() const noexcept { return raw_.is_json != 0; }

    // To wait for, as one that was submitted just now.
    const shmworker::task &task() const & noexcept { return task_; }
    shmworker::task task() && noexcept { return std::move(task_); }

private:
    shmworker_adopted raw_;
    shmworker::task task_;
};

class pool;

// Room in the segment for the input of a task.
class buffer {
public:
    explicit buffer(shmworker_buffer *raw) noexcept : raw_(raw) {}

    span<std::uint8_t> data() const {
        std::uint8_t *data = nullptr;
        std::size_t len = 0;
        check(shmworker_buffer_data(raw_.get(), &data, &len));
        return {data, len};
    }

    // Submits it, and so uses it up.
    inline task submit(const pool &to, const std::string &name, const task_options &options = {});

private:
    detail::owned<shmworker_buffer, shmworker_buffer_free> raw_;
};

// Worker processes, and a place to submit tasks to them.
class pool {
public:
    // Workers are copies of this process, which has to have one thread.
    static pool fork(const handlers &handlers, const pool_options &options = {}) {
        shmworker_pool *raw = nullptr;
        check(shmworker_pool_fork(handlers.raw(), &options, &raw));
        return pool(raw);
    }

    // Workers are processes of a program that calls `run_worker`.
    static pool exec(const std::string &program, const std::vector<std::string> &arguments = {},
                     const pool_options &options = {}) {
        std::vector<const char *> texts;
        for (const auto &argument : arguments) {
            texts.push_back(argument.c_str());
        }
        texts.push_back(nullptr);
        shmworker_pool *raw = nullptr;
        check(shmworker_pool_exec(program.c_str(), texts.data(), &options, &raw));
        return pool(raw);
    }

    // One that another process has made.
    static pool attach(const std::string &name) {
        shmworker_pool *raw = nullptr;
        check(shmworker_pool_attach(name.c_str(), &raw));
        return pool(raw);
    }

    // The same, under a name of this process's own.
    static pool attach(const std::string &name, const attach_options &options) {
        shmworker_pool *raw = nullptr;
        check(shmworker_pool_attach_with(name.c_str(), &options, &raw));
        return pool(raw);
    }

    // The next task of a former life. Nothing: there is none any more.
    std::optional<adopted> next_adopted() const {
        shmworker_adopted found{};
        found.size = sizeof found;
        shmworker_task *raw = nullptr;
        const auto code = shmworker_pool_next_adopted(raw_.get(), &found, &raw);
        if (code == SHMWORKER_RESULT_NOT_FOUND) {
            return std::nullopt;
        }
        check(code);
        return adopted(found, task(raw));
    }

    task submit(const std::string &name, bytes input, const task_options &options = {}) const {
        shmworker_task *raw = nullptr;
        check(shmworker_pool_submit(raw_.get(), name.c_str(), input.data(), input.size(), &options, &raw));
        return task(raw);
    }

    // The same without a wait. Nothing: there is no room just now.
    std::optional<task> try_submit(const std::string &name, bytes input, const task_options &options = {}) const {
        shmworker_task *raw = nullptr;
        const auto code = shmworker_pool_try_submit(raw_.get(), name.c_str(), input.data(), input.size(), &options, &raw);
        if (code == SHMWORKER_RESULT_NO_SPACE) {
            return std::nullopt;
        }
        check(code);
        return task(raw);
    }

    buffer reserve(std::size_t len) const {
        shmworker_buffer *raw = nullptr;
        check(shmworker_pool_reserve(raw_.get(), len, &raw));
        return buffer(raw);
    }

    // The same without a wait. Nothing: there is no room just now.
    std::optional<buffer> try_reserve(std::size_t len) const {
        shmworker_buffer *raw = nullptr;
        const auto code = shmworker_pool_try_reserve(raw_.get(), len, &raw);
        if (code == SHMWORKER_RESULT_NO_SPACE) {
            return std::nullopt;
        }
        check(code);
        return buffer(raw);
    }

    // Readable while `next_event` has something to give.
    int event_fd() const {
        int fd = -1;
        check(shmworker_pool_event_fd(raw_.get(), &fd));
        return fd;
    }

    // The next task that has ended, of those with `notify`, and what was given there. Nothing: there is none just now.
    std::optional<std::pair<shmworker_task *, void *>> next_event() const {
        std::pair<shmworker_task *, void *> event;
        const auto code = shmworker_pool_next_event(raw_.get(), &event.first, &event.second);
        if (code == SHMWORKER_RESULT_NOT_READY) {
            return std::nullopt;
        }
        check(code);
        return event;
    }

    void resize(std::size_t workers) const { check(shmworker_pool_resize(raw_.get(), workers)); }

    void shutdown(std::chrono::milliseconds grace) const {
        check(shmworker_pool_shutdown(raw_.get(), static_cast<std::uint64_t>(grace.count() < 0 ? 0 : grace.count())));
    }

    int coordinator_pid() const {
        std::int32_t pid = 0;
        check(shmworker_pool_coordinator_pid(raw_.get(), &pid));
        return pid;
    }

    shmworker_pool *raw() const noexcept { return raw_.get(); }

private:
    explicit pool(shmworker_pool *raw) noexcept : raw_(raw) {}

    detail::owned<shmworker_pool, shmworker_pool_free> raw_;
};

task buffer::submit(const pool &to, const std::string &name, const task_options &options) {
    shmworker_task *submitted = nullptr;
    check(shmworker_buffer_submit(raw_.get(), to.raw(), name.c_str(), &options, &submitted));
    raw_.release(); // the submission has used it up
    return task(submitted);
}

// The life of a worker program, which should end with what this returns. `pool`: the name of a running one to work for; else that
// which has started this program.
inline int run_worker(const handlers &handlers, const char *pool = nullptr) {
    int exit_code = 1;
    check(shmworker_worker_run(handlers.raw(), pool, &exit_code));
    return exit_code;
}

} // namespace shmworker

#endif // SHMWORKER_HPP
