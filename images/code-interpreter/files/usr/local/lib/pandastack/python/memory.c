#include "memory.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define LARGE 100000 /* bytes: enough to go through all that is free, too little to be mapped on its own */

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

void memory_tidy(void)
{
    malloc_trim(0);
    void *volatile large = malloc(LARGE);
    free(large);
}

/* The kernel knows best which parts can be: a refusal is none of ours. */
void memory_gather(void)
{
    char line[256];
    FILE *maps = fopen("/proc/self/maps", "re");
    while (maps != NULL && fgets(line, sizeof line, maps) != NULL) {
        unsigned long start, end, inode;
        if (sscanf(line, "%lx-%lx rw-p %*x %*x:%*x %lu", &start, &end, &inode) == 3 && inode == 0 &&
            strstr(line, "[stack]") == NULL)
            madvise((void *)start, end - start, MADV_COLLAPSE);
    }
    if (maps != NULL)
        fclose(maps);
}
