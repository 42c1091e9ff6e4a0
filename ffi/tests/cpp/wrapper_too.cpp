// The other file of wrapper_keeps.cpp.

#include <shmworker.hpp>

std::size_t add_more(shmworker::handlers &all);

std::size_t add_more(shmworker::handlers &all) {
    all.add("too", [](shmworker::context &c) { c.set_result("of another file"); });
    return sizeof(shmworker::context);
}
