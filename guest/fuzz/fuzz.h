/* What libFuzzer and the replaying driver call. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* An assertion that no build leaves out. */
static inline void demand(int truth)
{
    if (!truth)
        abort();
}

#endif
