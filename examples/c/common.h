// What every example needs: ends the program, with the reason, where a call has failed.

#ifndef EXAMPLE_COMMON_H
#define EXAMPLE_COMMON_H

#include <shmworker.h>

#include <stdio.h>
#include <stdlib.h>

static inline void check(int32_t code) {
    if (code != SHMWORKER_RESULT_OK) {
        fprintf(stderr, "%s: %s\n", shmworker_result_name(code), shmworker_last_error());
        exit(EXIT_FAILURE);
    }
}

#endif
