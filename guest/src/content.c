#include "content.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/types.h>
#include <unistd.h>

#include "bytes.h"

#define AT_ONCE (1u << 20)
#define PIPE_SIZE (256 * 1024)
#define BUFFER_SIZE (64u * 1024)

void content_widen(int pipe)
{
    fcntl(pipe, F_SETPIPE_SZ, PIPE_SIZE);
}

static size_t piece(uint64_t left, size_t most)
{
    return left < most ? (size_t)left : most;
}

static bool write_all(int into, const uint8_t *bytes, size_t size)
{
    while (size > 0) {
        ssize_t written = write(into, bytes, size);
        if (written < 0)
            return false;
        bytes += written;
        size -= (size_t)written;
    }
    return true;
}

/* For files that cannot be spliced, as most of /proc. */
static bool copy(int from, int into, uint64_t limit, uint64_t *moved)
{
    static uint8_t buffer[BUFFER_SIZE];
    while (limit > 0) {
        ssize_t got = read(from, buffer, piece(limit, sizeof buffer));
        if (got <= 0)
            return got == 0;
        if (!write_all(into, buffer, (size_t)got))
            return false;
        limit -= (uint64_t)got;
        *moved += (uint64_t)got;
    }
    return true;
}

bool content_move(int from, int into, uint64_t limit, uint64_t *moved)
{
    while (limit > 0) {
        ssize_t got = splice(from, NULL, into, NULL, piece(limit, AT_ONCE), 0);
        if (got < 0 && errno == EINVAL)
            return copy(from, into, limit, moved);
        if (got <= 0)
            return got == 0;
        limit -= (uint64_t)got;
        *moved += (uint64_t)got;
    }
    return true;
}
