// A program that is its own worker program.
//
//   worker_program             starts a pool whose workers execute this program with the argument `work`, and has them count words
//   worker_program work POOL   works for a pool that runs already, beside its own workers

#include <shmworker.hpp>

#include <cstdio>
#include <exception>
#include <sstream>
#include <string>

namespace {

void count_words(shmworker::context &context) {
    std::istringstream text{std::string(context.input().text())};
    std::uint64_t words = 0;
    for (std::string word; text >> word;) {
        words++;
    }
    if (words == 0) {
        throw shmworker::failure::permanent("there is no text to count words in", "NoText");
    }
    context.set_result(shmworker::bytes::of(words));
}

void submit(const shmworker::pool &pool, std::string_view text) {
    const auto task = pool.submit("count words", text);
    if (const auto outcome = task.wait()) {
        std::printf("%d words, counted by a worker\n", static_cast<int>(outcome.value().as<std::uint64_t>()));
    } else {
        std::printf("%s: %s\n", shmworker_result_name(outcome.code()), outcome.message().data());
    }
}

} // namespace

int main(int argc, char **argv) try {
    if (argc > 1 && std::string_view(argv[1]) == "work") {
        shmworker::handlers handlers;
        handlers.add("count words", count_words);
        return shmworker::run_worker(handlers, argc > 2 ? argv[2] : nullptr);
    }
    shmworker::pool_options options;
    options.workers = 2;
    const auto pool = shmworker::pool::exec("/proc/self/exe", {"work"}, options);
    submit(pool, "shared memory is faster than a pipe");
    submit(pool, "");
    return 0;
} catch (const std::exception &e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
}
