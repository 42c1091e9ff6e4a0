// A pool of worker processes, one task, its result.
//
//   c++ -std=c++17 hello.cpp $(pkg-config --cflags --libs shmworker) -o hello && ./hello World

#include <shmworker.hpp>

#include <cstdio>
#include <exception>
#include <string>

int main(int argc, char **argv) try {
    const std::string greeting = "Hello, "; // workers are copies of this process: what is captured is there
    shmworker::check_abi();
    shmworker::handlers handlers;
    handlers.add("greet", [&greeting](shmworker::context &context) {
        context.set_result(greeting + std::string(context.input().text()));
    });
    const auto pool = shmworker::pool::fork(handlers);
    const auto task = pool.submit("greet", argc > 1 ? argv[1] : "World");
    const std::string greeted(task.wait().value().text());
    std::puts(greeted.c_str());
    return 0;
} catch (const std::exception &e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
}
