// What shmworker.hpp adds to the calls that it wraps: objects that free themselves, are moved and are used when there is nothing in
// them; exceptions, both ways. With wrapper_too.cpp, since a header is included in more than one file of a program.

#include "../c/expect.h"

#include <shmworker.hpp>

#include <array>

using namespace shmworker;

std::size_t add_more(handlers &all);

// Throws an error with this code.
#define THROWS(wanted, call)                                                                                             \
    do {                                                                                                               \
        std::int32_t found_ = SHMWORKER_RESULT_OK;                                                                       \
        try {                                                                                                          \
            static_cast<void>(call);                                                                                   \
        } catch (const error &e) {                                                                                     \
            found_ = e.code();                                                                                         \
            EXPECT_TRUE(e.what()[0] != 0);                                                                             \
        }                                                                                                              \
        EXPECT_TRUE(found_ == SHMWORKER_RESULT_##wanted);                                                              \
    } while (0)

static_assert(std::is_nothrow_move_constructible_v<task> && std::is_nothrow_move_assignable_v<pool>);
static_assert(!std::is_copy_constructible_v<task> && !std::is_copy_constructible_v<buffer> && !std::is_copy_constructible_v<pool>);
static_assert(std::is_convertible_v<span<std::uint8_t>, span<const std::uint8_t>>);
static_assert(!std::is_convertible_v<span<const std::uint8_t>, span<std::uint8_t>>);

struct cannot_be_copied_twice {
    cannot_be_copied_twice() = default;
    cannot_be_copied_twice(const cannot_be_copied_twice &) { throw std::runtime_error("no copy"); }
    void operator()(context &) const {}
};

static std::string message_of(const pool &from, const char *name) {
    const auto task = from.submit(name, {});
    const auto ended = task.wait();
    EXPECT_TRUE(!ended && ended.code() == SHMWORKER_RESULT_TASK_FAILED);
    THROWS(TASK_FAILED, ended.value());
    return std::string(ended.message());
}

int main() {
    handlers all;
    all.add("echo", [](context &c) { c.set_result(c.input()); });
    all.add("number", [](context &) { throw 42; });
    all.add("nothing", handler{});
    all.add("step", [](context &c) { c.set_length(5); });
    // From a library that knows no UTF-8; the rest of what is said stays.
    all.add("latin", [](context &) { throw std::runtime_error("no caf\xe9"); });
    all.add("latin for good", [](context &) { throw failure::permanent("no caf\xe9", "Caf\xe9"); });
    all.add("later", [](context &) { throw failure("late").next_retry_delay(std::chrono::milliseconds(-1)).details("{}"); });
    THROWS(NAME_TAKEN, all.add("echo", [](context &) {}));
    THROWS(INVALID_ARGUMENT, all.add("", [](context &) {}));
    bool was_thrown = false;
    try {
        const cannot_be_copied_twice once;
        all.add("once", once);
    } catch (const std::runtime_error &) {
        was_thrown = true;
    }
    EXPECT_TRUE(was_thrown);
    EXPECT_TRUE(add_more(all) == sizeof(context));

    handlers moved = std::move(all);
    THROWS(NULL_ARGUMENT, all.add("more", [](context &) {}));
    pool_options options;
    options.workers = 1;
    pool first = pool::fork(moved, options);
    pool workers = std::move(first);
    THROWS(NULL_ARGUMENT, first.submit("echo", ""));

    EXPECT_TRUE(message_of(workers, "number") == "the task failed: an exception that is no std::exception");
    EXPECT_TRUE(message_of(workers, "nothing").find("bad_function_call") != std::string::npos);
    EXPECT_TRUE(message_of(workers, "step") == "the task failed: cannot shorten the result: code 101");
    EXPECT_TRUE(message_of(workers, "latin") == "the task failed: no caf?");
    EXPECT_TRUE(message_of(workers, "later") == "the task failed: late");
    task_options twice;
    twice.max_attempts = 2;
    const auto for_good = workers.submit("latin for good", "", twice);
    EXPECT_TRUE(for_good.wait().message() == "the task failed: Caf?: no caf?" && for_good.wait().attempts() == 1);
    EXPECT_TRUE(workers.submit("too", "").wait().value().text() == "of another file");

    // A view that no NUL follows, a task that is moved, to itself too, and what is left of it.
    auto one = workers.submit("echo", std::string_view("abcdef").substr(1, 2));
    auto &same = one;
    one = std::move(same);
    EXPECT_TRUE(one.wait().value().text() == "bc");
    auto another = std::move(one);
    THROWS(NULL_ARGUMENT, one.wait());
    std::array<std::uint8_t, 2> place{};
    EXPECT_TRUE(std::move(another).finish({place.data(), place.size()}) && place[0] == 'b');
    THROWS(NULL_ARGUMENT, another.wait());
    EXPECT_TRUE(workers.submit("echo", bytes::of(7)).wait().value().as<int>() == 7);
    was_thrown = false;
    try {
        static_cast<void>(bytes::of(7).as<char>());
    } catch (const std::length_error &) {
        was_thrown = true;
    }
    EXPECT_TRUE(was_thrown);
    const auto soon = workers.submit("echo", "");
    static_cast<void>(soon.wait_for(std::chrono::milliseconds(-1)));
    EXPECT_TRUE(soon.wait_for(std::chrono::milliseconds::max()).has_value());

    buffer room = workers.reserve(3);
    buffer taken = std::move(room);
    THROWS(NULL_ARGUMENT, room.data());
    std::memcpy(taken.data().data(), "xyz", 3);
    EXPECT_TRUE(taken.submit(workers, "echo").wait().value().text() == "xyz");
    THROWS(NULL_ARGUMENT, taken.submit(workers, "echo"));

    THROWS(NOT_RUNNING, pool::attach("no-such-pool"));
    workers.shutdown(std::chrono::milliseconds::max());
    THROWS(POOL_ENDED, workers.submit("echo", ""));
    std::puts("the wrapper keeps what it has");
    return 0;
}
