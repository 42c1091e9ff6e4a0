// For test programs: a call must give this code, and where it is an error, say something.

#ifndef EXPECT_H
#define EXPECT_H

#include <shmworker.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPECT(code, call) EXPECT_CODE(SHMWORKER_RESULT_##code, call)

#define EXPECT_CODE(code, call)                                                                                        \
    do {                                                                                                               \
        const int32_t expected_ = (code), found_ = (call);                                                             \
        if (found_ != expected_ || (found_ != SHMWORKER_RESULT_OK && shmworker_last_error()[0] == 0)) {                \
            fprintf(stderr, "%s:%d: %s gave %s (%s), not %s\n", __FILE__, __LINE__, #call,                             \
                    shmworker_result_name(found_), shmworker_last_error(), shmworker_result_name(expected_));          \
            exit(EXIT_FAILURE);                                                                                        \
        }                                                                                                              \
    } while (0)

#define EXPECT_TRUE(condition)                                                                                         \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                                    \
            exit(EXIT_FAILURE);                                                                                        \
        }                                                                                                              \
    } while (0)

#define EXPECT_TEXT(part)                                                                                              \
    do {                                                                                                               \
        if (!strstr(shmworker_last_error(), part)) {                                                                   \
            fprintf(stderr, "%s:%d: no '%s' in '%s'\n", __FILE__, __LINE__, part, shmworker_last_error());             \
            exit(EXIT_FAILURE);                                                                                        \
        }                                                                                                              \
    } while (0)

#endif
