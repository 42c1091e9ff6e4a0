// As much of Protocol Buffers as the sample workflow needs: a reader of fields, and a writer from the inside out.

#ifndef PROTOBUF_H
#define PROTOBUF_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const uint8_t *data;
    size_t len;
} bytes;

// One field of a message: `number` is never 0; varints are in `value`, all else in `data`.
typedef struct {
    uint32_t number;
    uint64_t value;
    bytes data;
} field;

static inline uint64_t read_varint(bytes *from) {
    uint64_t value = 0;
    for (int shift = 0; from->len && shift < 64; shift += 7) {
        uint8_t byte = *from->data++;
        from->len--;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) break;
    }
    return value;
}

// Takes the next field off the message. False: it was the last one.
static inline bool next_field(bytes *message, field *f) {
    if (!message->len) return false;
    uint64_t tag = read_varint(message);
    *f = (field){.number = (uint32_t)(tag >> 3)};
    size_t len = 0;
    switch (tag & 7) {
    case 0: f->value = read_varint(message); return true;
    case 1: len = 8; break;
    case 2: len = read_varint(message); break;
    case 5: len = 4; break;
    default: len = SIZE_MAX;
    }
    if (len > message->len) {
        fprintf(stderr, "not a protobuf message\n");
        exit(70);
    }
    f->data = (bytes){message->data, len};
    message->data += len;
    message->len -= len;
    return true;
}

// The last field with this number; all zeros if there is none.
static inline field find(bytes message, uint32_t number) {
    field f, found = {0};
    while (next_field(&message, &f))
        if (f.number == number) found = f;
    return found;
}

static inline bool is(bytes a, const char *b) { return a.len == strlen(b) && !memcmp(a.data, b, a.len); }

static inline bytes text(const char *s) { return (bytes){(const uint8_t *)s, strlen(s)}; }

// A message being written. A nested one is written first, by itself, then put into its parent.
typedef struct {
    uint8_t *data;
    size_t len, capacity;
} writer;

static inline void write_bytes(writer *w, const void *data, size_t len) {
    if (w->len + len > w->capacity) {
        w->capacity = 2 * (w->len + len) + 64;
        w->data = realloc(w->data, w->capacity);
        if (!w->data) abort();
    }
    if (len) memcpy(w->data + w->len, data, len);
    w->len += len;
}

static inline void write_varint(writer *w, uint64_t value) {
    for (; value >= 0x80; value >>= 7) write_bytes(w, &(uint8_t){(uint8_t)value | 0x80}, 1);
    write_bytes(w, &(uint8_t){(uint8_t)value}, 1);
}

static inline void put_number(writer *w, uint32_t number, uint64_t value) {
    write_varint(w, (uint64_t)number << 3);
    write_varint(w, value);
}

static inline void put(writer *w, uint32_t number, bytes data) {
    write_varint(w, (uint64_t)number << 3 | 2);
    write_varint(w, data.len);
    write_bytes(w, data.data, data.len);
}

// Puts a message into its parent, and frees it.
static inline void put_message(writer *w, uint32_t number, writer message) {
    put(w, number, (bytes){message.data, message.len});
    free(message.data);
}

#endif
