#include "memory.h"

#include <sys/mman.h>

/* Advice: when the kernel does not take it, memory is used as before. */
void memory_keep_from_children(void *memory, size_t size)
{
    madvise(memory, size, MADV_DONTFORK);
}

void memory_give_back(void *memory, size_t size)
{
    madvise(memory, size, MADV_DONTNEED);
}
