// What the wrapper adds to the C interface: lambdas with what they capture, exceptions both ways, objects that free themselves.

#include <shmworker.hpp>

#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#define EXPECT(condition)                                                                                              \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                               \
            std::exit(EXIT_FAILURE);                                                                                   \
        }                                                                                                              \
    } while (0)

namespace {

using namespace std::chrono_literals;
using shmworker::bytes;
using shmworker::context;

struct model {
    int made = 40;
};

struct no_exception {};

template <typename Code> std::int32_t code_of(Code &&code) {
    try {
        code();
    } catch (const shmworker::error &e) {
        EXPECT(*e.what() != 0);
        return e.code();
    }
    return SHMWORKER_RESULT_OK;
}

void handlers_are_lambdas(const shmworker::pool &pool) {
    const auto task = pool.submit("add", bytes::of(2));
    EXPECT(task.wait().value().as<int>() == 49);
    std::array<std::uint8_t, 64> place{};
    EXPECT(pool.submit("add", bytes::of(3)).finish({place.data(), place.size()}).value().as<int>() == 50);
    EXPECT(code_of([&] { pool.submit("no such", ""); }) == SHMWORKER_RESULT_TASK_UNKNOWN);
}

void exceptions_are_failures(const shmworker::pool &pool) {
    shmworker::task_options options;
    options.max_attempts = 2;
    for (const auto &[what, attempts, says] : {std::tuple("runtime", 2U, "no luck"), std::tuple("none", 2U, "an exception"),
                                               std::tuple("for good", 1U, "Bad: never")}) {
        const auto task = pool.submit("throw", what, options);
        const auto outcome = task.wait();
        EXPECT(!outcome && outcome.code() == SHMWORKER_RESULT_TASK_FAILED && outcome.attempts() == attempts);
        EXPECT(outcome.message().find(says) != std::string_view::npos);
        EXPECT(code_of([&] { outcome.value(); }) == SHMWORKER_RESULT_TASK_FAILED);
    }
}

void large_ones_are_in_place(const shmworker::pool &pool) {
    auto buffer = pool.reserve(8 << 20);
    std::iota(buffer.data().begin(), buffer.data().end(), std::uint8_t{0});
    const auto task = buffer.submit(pool, "invert");
    EXPECT(code_of([&] { buffer.data(); }) == SHMWORKER_RESULT_NULL_ARGUMENT);
    const auto result = task.wait().value();
    EXPECT(result.size() == 8 << 20 && result[1] == 0xfe && result[result.size() - 1] == 0);
}

void ends_are_told(const shmworker::pool &pool) {
    const auto task = pool.submit("until cancelled", "");
    EXPECT(!task.wait_for(1ms));
    task.cancel();
    EXPECT(task.wait().code() == SHMWORKER_RESULT_TASK_CANCELLED);

    const auto told = pool.submit("add", bytes::of(1));
    int mark = 0;
    told.notify(&mark);
    EXPECT(told.wait());
    const auto event = pool.next_event();
    EXPECT(event && event->first == told.raw() && event->second == &mark && !pool.next_event());
}

void crashes_are_retried(const shmworker::pool &pool) {
    shmworker::task_options options;
    options.max_attempts = 2;
    const auto task = pool.submit("crash", "", options);
    const auto outcome = task.wait();
    EXPECT(outcome.value().text() == "page 3" && outcome.attempts() == 2);
    const auto once = pool.submit("crash", "");
    EXPECT(once.wait().code() == SHMWORKER_RESULT_TASK_DIED && once.wait().signal() == SIGSEGV);
}

} // namespace

int main() try {
    shmworker::check_abi();
    EXPECT(std::string(SHMWORKER_VERSION) == shmworker_version());
    const int seven = 7;
    shmworker::handlers handlers;
    handlers.state<model>()
        .add("add", [seven](context &c) { c.set_result(bytes::of(c.state_as<model>().made + seven + c.input().as<int>())); })
        .add("throw",
             [](context &c) {
                 if (c.input().text() == "none") throw no_exception();
                 if (c.input().text() == "for good") throw shmworker::failure::permanent("never", "Bad");
                 throw std::runtime_error("no luck");
             })
        .add("invert",
             [](context &c) {
                 const auto in = c.input();
                 auto out = c.reserve(in.size());
                 for (std::size_t i = 0; i < in.size(); i++) out[i] = static_cast<std::uint8_t>(~in[i]);
                 c.set_encoding("binary/plain");
             })
        .add("until cancelled", [](context &c) { for (;;) c.check_cancelled(); })
        .add("crash", [](context &c) {
            if (const auto earlier = c.last_checkpoint()) return c.set_result(*earlier);
            c.checkpoint("page 3");
            std::raise(SIGSEGV);
        });
    EXPECT(code_of([&] { handlers.add("add", [](context &) {}); }) == SHMWORKER_RESULT_NAME_TAKEN);

    shmworker::pool_options options;
    options.workers = 2;
    auto pool = shmworker::pool::fork(handlers, options);
    handlers_are_lambdas(pool);
    exceptions_are_failures(pool);
    large_ones_are_in_place(pool);
    ends_are_told(pool);
    crashes_are_retried(pool);

    auto moved = std::move(pool);
    EXPECT(code_of([&] { pool.submit("add", ""); }) == SHMWORKER_RESULT_NULL_ARGUMENT);
    moved.shutdown(1s);
    EXPECT(code_of([&] { moved.submit("add", ""); }) == SHMWORKER_RESULT_POOL_ENDED);
    EXPECT(code_of([] { shmworker::pool::attach("no-such-pool"); }) == SHMWORKER_RESULT_NOT_RUNNING);
    std::puts("the wrapper does as it says");
    return 0;
} catch (const std::exception &e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
}
