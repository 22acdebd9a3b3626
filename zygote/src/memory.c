#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/mman.h>

#include "preload.h"

/* QEMU keeps the guest's memory out of forks, as none is expected to go on as a machine: here that is what they are for. */
EXPORT int madvise(void *start, size_t size, int advice)
{
    static int (*original)(void *, size_t, int);
    if (!original)
        *(void **)&original = dlsym(RTLD_NEXT, "madvise");
    return advice == MADV_DONTFORK ? 0 : original(start, size, advice);
}
