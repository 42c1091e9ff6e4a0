// Results in an event loop: one thread that waits with epoll for whatever comes, and never for a single task.

#include <shmworker.hpp>

#include <cstdio>
#include <exception>
#include <list>
#include <sys/epoll.h>
#include <unistd.h>

namespace {

void square(shmworker::context &context) {
    const auto x = context.input().as<std::uint64_t>();
    context.set_result(shmworker::bytes::of(x * x));
}

} // namespace

int main() try {
    constexpr int count = 200;
    shmworker::handlers handlers;
    handlers.add("square", square);
    const auto pool = shmworker::pool::fork(handlers);
    epoll_event event{};
    event.events = EPOLLIN;
    const int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, pool.event_fd(), &event) != 0) {
        std::perror("epoll");
        return 1;
    }
    std::list<shmworker::task> tasks; // an item of a list stays where it is: its address is what the event brings
    for (std::uint64_t i = 1; i <= count; i++) {
        tasks.push_back(pool.submit("square", shmworker::bytes::of(i)));
        tasks.back().notify(&tasks.back());
    }
    std::uint64_t sum = 0;
    int ended = 0;
    while (ended < count) {
        if (epoll_wait(epoll, &event, 1, -1) != 1) {
            continue;
        }
        while (const auto next = pool.next_event()) {
            sum += static_cast<shmworker::task *>(next->second)->wait().value().as<std::uint64_t>();
            ended++;
        }
    }
    std::printf("the sum of %d squares is %d\n", ended, static_cast<int>(sum));
    close(epoll);
    return 0;
} catch (const std::exception &e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
}
