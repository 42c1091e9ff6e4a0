// The wrapper's side of pools that lie in a file.

#include <shmworker.hpp>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <unistd.h>

namespace {

void expect(bool holds, int line) {
    if (!holds) {
        std::fprintf(stderr, "state.cpp:%d: not so\n", line);
        std::exit(EXIT_FAILURE);
    }
}
#define EXPECT(condition) expect(condition, __LINE__)

std::int32_t code_of(const std::string &pool, const shmworker::attach_options &options) {
    try {
        shmworker::pool::attach(pool, options);
        return SHMWORKER_RESULT_OK;
    } catch (const shmworker::error &e) {
        return e.code();
    }
}

} // namespace

int main() {
    char made[] = "/tmp/shmworker-state-XXXXXX";
    EXPECT(mkdtemp(made) != nullptr);
    const std::string dir = made, file = dir + "/state", name = "ffi-state-cpp-" + std::to_string(getpid());
    shmworker::check_abi();
    shmworker::handlers handlers;
    handlers.add("echo", [](shmworker::context &context) { context.set_result(context.input()); });
    shmworker::pool_options options;
    options.file = file.c_str();
    options.name = name.c_str();
    options.workers = 1;
    shmworker::task_options keyed;
    keyed.key = "stored";
    {
        auto pool = shmworker::pool::fork(handlers, options);
        EXPECT(!pool.next_adopted());
        // Who can't store a result has it again.
        try {
            auto task = pool.submit("echo", "first", keyed);
            EXPECT(task.wait().value().text() == "first");
            std::ofstream out;
            out.exceptions(std::ios::failbit);
            out.open(dir + "/none/out");
        } catch (const std::ios::failure &) {
            EXPECT(!pool.next_adopted());
        }
        // Who has stored it has not.
        EXPECT(pool.submit("echo", "second").wait().value().text() == "second");
        auto left = pool.submit("echo", "third");
        EXPECT(left.wait().value().text() == "third");
        std::move(left).leave();
        shmworker::attach_options attach;
        attach.client = "main";
        EXPECT(code_of(name, attach) == SHMWORKER_RESULT_REFUSED);
        attach.client = "no name";
        EXPECT(code_of(name, attach) == SHMWORKER_RESULT_INVALID_ARGUMENT);
        attach.client = "nightly";
        EXPECT(code_of(name, attach) == SHMWORKER_RESULT_OK);
    }
    auto pool = shmworker::pool::fork(handlers, options);
    auto first = pool.next_adopted(), third = pool.next_adopted();
    EXPECT(first && third && !pool.next_adopted());
    EXPECT(first->name() == "echo" && first->key() == "stored" && !first->is_json());
    EXPECT(first->task().wait().value().text() == "first");
    EXPECT(!third->key());
    auto task = std::move(*third).task();
    const auto input = task.input();
    EXPECT(shmworker::bytes(input.data(), input.size()).text() == "third");
    EXPECT(task.wait().value().text() == "third");
    EXPECT(std::filesystem::remove_all(dir) > 0);
    std::puts("what could not be stored is there again");
    return EXIT_SUCCESS;
}
