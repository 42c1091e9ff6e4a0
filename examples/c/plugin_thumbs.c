// A Temporal activity in C: "thumbnail" takes an image (a binary PPM, P6, as bytes) and a width in pixels (JSON; 128, if
// there is no second argument), and gives the image at that width, each pixel the mean of those that it stands for.
//
//   cc -std=c11 -O2 -shared -fPIC plugin_thumbs.c $(pkg-config --cflags shmworker) -o libthumbs.so
//   shmworker run -w 0 -a 2 --load ./libthumbs.so --task-queue thumbs
//
// It includes a header and links with nothing: what it calls it reaches through the tables that it is given.

#include <shmworker.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct image {
    size_t width, height;
    const uint8_t *pixels;  // three bytes each
};

// A number of the head of a PPM; 0: there is none.
static size_t number(const uint8_t **at, const uint8_t *end) {
    size_t n = 0;
    while (*at < end && (**at == ' ' || **at == '\n' || **at == '\t' || **at == '\r' || **at == '#')) {
        if (**at == '#') {
            while (*at < end && **at != '\n') ++*at;
        } else {
            ++*at;
        }
    }
    for (; *at < end && **at >= '0' && **at <= '9' && n <= 100000; ++*at) n = 10 * n + (size_t)(**at - '0');
    return n;
}

static bool parse(const struct shmworker_payload *file, struct image *image) {
    const uint8_t *at = file->data, *end = at + file->len;
    if (file->len < 2 || memcmp(at, "P6", 2) != 0) {
        return false;
    }
    at += 2;
    image->width = number(&at, end);
    image->height = number(&at, end);
    if (number(&at, end) != 255 || at == end) {
        return false;
    }
    image->pixels = ++at;
    return image->width > 0 && image->width <= 100000 && image->height > 0 && image->height <= 100000 &&
           (size_t)(end - at) >= 3 * image->width * image->height;
}

// The mean of all pixels of a box.
static void mean(const struct image *image, size_t left, size_t right, size_t top, size_t bottom, uint8_t *pixel) {
    uint64_t sum[3] = {0, 0, 0};
    for (size_t y = top; y < bottom; ++y) {
        const uint8_t *row = image->pixels + 3 * (y * image->width + left);
        for (size_t i = 0; i < 3 * (right - left); ++i) sum[i % 3] += row[i];
    }
    for (int c = 0; c < 3; ++c) pixel[c] = (uint8_t)(sum[c] / ((right - left) * (bottom - top)));
}

static int32_t thumbnail(struct shmworker_context *context, void *user_data) {
    (void)user_data;
    struct shmworker_payload file, width;
    struct image image;
    if (shmworker_context_argument(context, 0, &file) || !parse(&file, &image)) {
        // Another attempt would see the same bytes.
        return shmworker_context_fail_for_good(context, "BadImage", "the first argument is no binary PPM, 8 bits a channel");
    }
    size_t wanted = 128;
    if (shmworker_context_argument(context, 1, &width) == SHMWORKER_RESULT_OK) {
        char text[24] = "";
        memcpy(text, width.data, width.len < sizeof text ? width.len : sizeof text - 1);
        wanted = strtoul(text, NULL, 10);
        if (wanted == 0) {
            return shmworker_context_fail_for_good(context, "BadWidth", "the second argument is no width in pixels");
        }
    }
    if (wanted > image.width) wanted = image.width;
    size_t height = image.height * wanted / image.width;
    if (height == 0) height = 1;

    char head[64];
    size_t head_len = (size_t)snprintf(head, sizeof head, "P6\n%zu %zu\n255\n", wanted, height);
    uint8_t *out;
    int32_t refused = shmworker_context_reserve(context, head_len + 3 * wanted * height, &out);
    if (refused) {
        return refused;
    }
    memcpy(out, head, head_len);
    out += head_len;
    for (size_t y = 0; y < height; ++y) {
        if (shmworker_context_is_cancelled(context)) {
            return SHMWORKER_RESULT_CANCELLED;
        }
        shmworker_context_heartbeat(context);
        for (size_t x = 0; x < wanted; ++x, out += 3) {
            size_t left = x * image.width / wanted, right = (x + 1) * image.width / wanted;
            size_t top = y * image.height / height, bottom = (y + 1) * image.height / height;
            mean(&image, left, right, top, bottom, out);
        }
    }
    return SHMWORKER_RESULT_OK;
}

SHMWORKER_PLUGIN(host) { return shmworker_host_handler(host, "thumbnail", thumbnail, NULL); }
