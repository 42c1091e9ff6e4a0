// The usual flow: is the loaded library the one this program was compiled for, and which version is it?
//
// Also valid C++, and compiled as such.

#include "shmworker.h"

#include <stdio.h>
#include <stdlib.h>

int main(void) {
    if (shmworker_abi_version() != SHMWORKER_ABI_VERSION) {
        fprintf(stderr, "compiled for ABI %u, loaded %u\n", (unsigned)SHMWORKER_ABI_VERSION,
                (unsigned)shmworker_abi_version());
        return EXIT_FAILURE;
    }
    puts(shmworker_version());
    return EXIT_SUCCESS;
}
