// A filter over a frame of eight megabytes, of which no copy is made: the client writes it into shared memory, the worker reads it
// there and writes its result there, and the client reads that there.

#include "common.h"

#include <string.h>

enum { WIDTH = 1920, HEIGHT = 1080, CHANNELS = 4 };

// A box blur, three pixels wide, of each channel.
static int32_t blur(struct shmworker_context *context, void *user_data) {
    struct shmworker_payload frame;
    uint8_t *out;
    int32_t code = shmworker_context_argument(context, 0, &frame);
    (void)user_data;
    if (code == SHMWORKER_RESULT_OK && frame.len != (size_t)WIDTH * HEIGHT * CHANNELS) {
        return shmworker_context_fail_for_good(context, "BadFrame", "a frame has 1920 times 1080 pixels of 4 bytes");
    }
    if (code == SHMWORKER_RESULT_OK) {
        code = shmworker_context_reserve(context, frame.len, &out);
    }
    if (code != SHMWORKER_RESULT_OK) {
        return code;
    }
    for (size_t y = 0; y < HEIGHT; y++) {
        const uint8_t *row = frame.data + y * WIDTH * CHANNELS;
        if (shmworker_context_is_cancelled(context)) {
            return SHMWORKER_RESULT_CANCELLED;
        }
        for (size_t i = 0; i < WIDTH * CHANNELS; i++) {
            size_t left = i < CHANNELS ? i : i - CHANNELS;
            size_t right = i + CHANNELS < WIDTH * CHANNELS ? i + CHANNELS : i;
            out[y * WIDTH * CHANNELS + i] = (uint8_t)((row[left] + row[i] + row[right]) / 3);
        }
    }
    return SHMWORKER_RESULT_OK;
}

int main(void) {
    struct shmworker_handlers *handlers;
    struct shmworker_pool *pool;
    struct shmworker_buffer *buffer;
    struct shmworker_task *task;
    struct shmworker_outcome outcome = {.size = sizeof outcome};
    uint8_t *frame;
    size_t len;

    check(shmworker_handlers_new(&handlers));
    check(shmworker_handlers_add(handlers, "blur", blur, NULL));
    check(shmworker_pool_fork(handlers, NULL, &pool));

    check(shmworker_pool_reserve(pool, (size_t)WIDTH * HEIGHT * CHANNELS, &buffer));
    check(shmworker_buffer_data(buffer, &frame, &len));
    memset(frame, 0, len);
    frame[(540 * WIDTH + 960) * CHANNELS] = 255; // one red point
    check(shmworker_buffer_submit(buffer, pool, "blur", NULL, &task));

    check(shmworker_task_wait(task, -1, &outcome));
    if (outcome.code == SHMWORKER_RESULT_OK) {
        const uint8_t *red = outcome.data + (540 * WIDTH + 960) * CHANNELS;
        printf("%zu bytes; the point and its neighbours: %d %d %d\n", outcome.len, red[-CHANNELS], red[0], red[CHANNELS]);
    } else {
        fprintf(stderr, "%s\n", outcome.message);
    }
    check(shmworker_task_free(task));
    check(shmworker_pool_free(pool));
    check(shmworker_handlers_free(handlers));
    return outcome.code == SHMWORKER_RESULT_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
