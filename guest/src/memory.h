/* Large static buffers: kept out of forked children (a fork then copies less) and given back when they have served. */
#ifndef MEMORY_H
#define MEMORY_H

#include <stddef.h>

#define PAGE_SIZE_MAX 4096
#define PAGE_ALIGNED __attribute__((aligned(PAGE_SIZE_MAX)))

/* Both take page-aligned memory. */
void memory_keep_from_children(void *memory, size_t size);
void memory_give_back(void *memory, size_t size);

#endif
