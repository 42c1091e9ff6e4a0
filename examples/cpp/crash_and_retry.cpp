// Handlers that crash: one task's failure, or another attempt, and nobody else notices.

#include <shmworker.hpp>

#include <csignal>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

namespace {

constexpr int documents = 100, crashes_once = 13, crashes_always = 66;

// Gets as far as a checkpoint first, so that the next attempt knows of this one.
void parse(shmworker::context &context) {
    const auto document = context.input().as<int>();
    if (document == crashes_always || (document == crashes_once && context.attempt() == 1)) {
        context.checkpoint("page 7");
        std::raise(SIGSEGV);
    }
    if (const auto earlier = context.last_checkpoint()) {
        context.set_result(*earlier);
    }
}

} // namespace

int main() try {
    shmworker::handlers handlers;
    handlers.add("parse", parse);
    shmworker::pool_options pool_options;
    pool_options.workers = 2;
    const auto pool = shmworker::pool::fork(handlers, pool_options);
    shmworker::task_options options;
    options.max_attempts = 3;
    options.max_worker_deaths = 2;
    std::vector<shmworker::task> tasks;
    for (int i = 0; i < documents; i++) {
        tasks.push_back(pool.submit("parse", shmworker::bytes::of(i), options));
    }
    int done = 0;
    for (int i = 0; i < documents; i++) {
        const auto outcome = tasks[static_cast<std::size_t>(i)].wait();
        if (!outcome) {
            std::printf("document %d: %s, signal %d, after %u attempts\n", i, shmworker_result_name(outcome.code()),
                        outcome.signal(), outcome.attempts());
            continue;
        }
        done++;
        if (const auto text = outcome.value().text(); !text.empty()) {
            std::printf("document %d: goes on at %.*s, by attempt %u\n", i, static_cast<int>(text.size()), text.data(),
                        outcome.attempts());
        }
    }
    std::printf("%d documents of %d are done\n", done, documents);
    return 0;
} catch (const std::exception &e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
}
