// A filter over a frame of eight megabytes, of which no copy is made: the client writes it into shared memory, the worker reads it
// there and writes its result there, and the client reads that there.

#include <shmworker.hpp>

#include <algorithm>
#include <cstdio>
#include <exception>

namespace {

constexpr std::size_t width = 1920, height = 1080, channels = 4, row_bytes = width * channels;

// A box blur, three pixels wide, of each channel.
void blur(shmworker::context &context) {
    const auto frame = context.input();
    if (frame.size() != row_bytes * height) {
        throw shmworker::failure::permanent("a frame has 1920 times 1080 pixels of 4 bytes", "BadFrame");
    }
    const auto out = context.reserve(frame.size());
    for (std::size_t y = 0; y < height; y++) {
        context.check_cancelled();
        const auto *row = frame.data() + y * row_bytes;
        for (std::size_t i = 0; i < row_bytes; i++) {
            const auto left = i < channels ? i : i - channels;
            const auto right = i + channels < row_bytes ? i + channels : i;
            out[y * row_bytes + i] = static_cast<std::uint8_t>((row[left] + row[i] + row[right]) / 3);
        }
    }
}

} // namespace

int main() try {
    shmworker::handlers handlers;
    handlers.add("blur", blur);
    const auto pool = shmworker::pool::fork(handlers);
    auto buffer = pool.reserve(row_bytes * height);
    const auto frame = buffer.data();
    std::fill(frame.begin(), frame.end(), std::uint8_t{0});
    constexpr auto point = (540 * width + 960) * channels;
    frame[point] = 255; // one red point
    const auto task = buffer.submit(pool, "blur");
    const auto blurred = task.wait().value();
    std::printf("%zu bytes; the point and its neighbours: %d %d %d\n", blurred.size(), blurred[point - channels],
                blurred[point], blurred[point + channels]);
    return 0;
} catch (const std::exception &e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
}
