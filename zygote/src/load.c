#define _GNU_SOURCE
#include "load.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest.h"

enum { PAGE = 4096, LINE = 4608 };

static const char MAGIC[8] = {'P', 'N', 'D', 'A', 'P', 'A', 'G', 'E'};
static const uint64_t FILE_PAGE = UINT64_C(1) << 61, SWAPPED = UINT64_C(1) << 62, PRESENT = UINT64_C(1) << 63;

struct header {
    char magic[8];
    uint32_t page, runs;
    uint64_t pages;
};

struct run {
    uint32_t first, count;
};

struct memory {
    char *start;
    size_t pages;
};

/* The guest's memory is one mapping, which the kernel may show in parts: they follow each other. */
static bool find_memory(const char *base, struct memory *memory)
{
    char line[LINE];
    FILE *maps = fopen("/proc/self/maps", "re");
    size_t wanted = strlen(base);
    uintptr_t begin = 0, end = 0;
    while (maps && fgets(line, sizeof line, maps)) {
        uintptr_t from, to;
        uint64_t offset;
        line[strcspn(line, "\n")] = 0;
        size_t length = strlen(line);
        if (length < wanted || strcmp(line + length - wanted, base) != 0)
            continue;
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %*s %" SCNx64, &from, &to, &offset) != 3)
            continue;
        if (offset == 0)
            begin = from;
        if (from == end || offset == 0)
            end = to;
    }
    if (maps)
        fclose(maps);
    *memory = (struct memory){(char *)begin, (end - begin) / PAGE};
    return begin != 0;
}

static struct run *read_runs(int file, struct header *header)
{
    struct stat status;
    if (pread(file, header, sizeof *header, 0) != (ssize_t)sizeof *header || fstat(file, &status) != 0)
        return NULL;
    size_t size = header->runs * sizeof(struct run);
    size_t at = (sizeof *header + size + PAGE - 1) / PAGE * PAGE;
    if (memcmp(header->magic, MAGIC, sizeof MAGIC) != 0 || header->page != PAGE ||
        (uint64_t)status.st_size != at + header->pages * PAGE)
        return NULL;
    struct run *runs = malloc(size + 1);
    if (runs && pread(file, runs, size, sizeof *header) == (ssize_t)size)
        return runs;
    free(runs);
    return NULL;
}

static void changed(const struct memory *memory, size_t first, size_t count)
{
    guest_forget_code(memory->start + first * PAGE, count * PAGE);
}

/* Pages that this process has of its own and that the snapshot does not: they are the base's again. */
static bool revert_others(const struct memory *memory, const uint8_t *kept)
{
    size_t size = memory->pages * sizeof(uint64_t);
    uint64_t *entries = malloc(size);
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    off_t at = (off_t)((uintptr_t)memory->start / PAGE * sizeof(uint64_t));
    bool read_all = entries && pread(pagemap, entries, size, at) == (ssize_t)size;
    for (size_t page = 0; read_all && page < memory->pages; page++) {
        bool own = !(entries[page] & FILE_PAGE) && (entries[page] & (PRESENT | SWAPPED));
        if (!own || (kept && kept[page]))
            continue;
        madvise(memory->start + page * PAGE, PAGE, MADV_DONTNEED);
        changed(memory, page, 1);
    }
    close(pagemap);
    free(entries);
    return read_all;
}

static bool read_pages(int file, const struct memory *memory, const struct header *header, const struct run *runs,
                       uint8_t *kept)
{
    off_t at = (off_t)((sizeof *header + header->runs * sizeof *runs + PAGE - 1) / PAGE * PAGE);
    for (uint32_t i = 0; i < header->runs; i++) {
        size_t first = runs[i].first, count = runs[i].count;
        if (first + count > memory->pages)
            return false;
        if (pread(file, memory->start + first * PAGE, count * PAGE, at) != (ssize_t)(count * PAGE))
            return false;
        memset(kept + first, 1, count);
        changed(memory, first, count);
        at += (off_t)(count * PAGE);
    }
    return true;
}

static bool load_memory(const char *base, int file)
{
    struct memory memory;
    struct header header;
    if (!find_memory(base, &memory))
        return false;
    struct run *runs = read_runs(file, &header);
    uint8_t *kept = calloc(memory.pages, 1);
    bool done = runs && kept && read_pages(file, &memory, &header, runs, kept) && revert_others(&memory, kept);
    free(kept);
    free(runs);
    return done;
}

bool load_base(const char *base, const char *state)
{
    struct memory memory;
    if (!find_memory(base, &memory) || !revert_others(&memory, NULL))
        return false;
    madvise(memory.start, memory.pages * PAGE, MADV_DONTNEED); /* what was only read need not be known to children */
    return guest_load_devices(state);
}

bool load_snapshot(const char *base, int pages, const char *state)
{
    return load_memory(base, pages) && guest_load_devices(state);
}
