#include "lines.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

bool lines_open(struct lines *lines, const char *path)
{
    struct stat status;
    lines->start = lines->end = 0;
    lines->skipping = false;
    lines->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (lines->fd < 0)
        return false;
    if (fstat(lines->fd, &status) == 0 && S_ISREG(status.st_mode))
        return true;
    lines_close(lines);
    errno = EINVAL;
    return false;
}

/* Reads behind what is there. False at the end of the file. */
static bool fill(struct lines *lines)
{
    if (lines->start > 0) {
        memmove(lines->buffer, lines->buffer + lines->start, lines->end - lines->start);
        lines->end -= lines->start;
        lines->start = 0;
    }
    if (lines->end == sizeof lines->buffer - 1) {
        lines->skipping = true;
        lines->end = 0;
    }
    ssize_t got = read(lines->fd, lines->buffer + lines->end, sizeof lines->buffer - 1 - lines->end);
    if (got > 0)
        lines->end += (size_t)got;
    return got > 0;
}

/* Where the line at `start` ends: at its newline, or at the end of the file. NULL when there is no line any more. */
static char *line_end(struct lines *lines)
{
    for (;;) {
        char *newline = memchr(lines->buffer + lines->start, '\n', lines->end - lines->start);
        if (newline != NULL)
            return newline;
        if (!fill(lines))
            return lines->start < lines->end ? lines->buffer + lines->end : NULL;
    }
}

char *lines_next(struct lines *lines)
{
    for (char *end; (end = line_end(lines)) != NULL;) {
        char *line = lines->buffer + lines->start;
        bool whole = !lines->skipping && memchr(line, '\0', (size_t)(end - line)) == NULL;
        bool last = end == lines->buffer + lines->end;
        lines->skipping = false;
        lines->start = last ? lines->end : (size_t)(end - lines->buffer) + 1;
        *end = '\0';
        if (whole)
            return line;
    }
    return NULL;
}

void lines_close(struct lines *lines)
{
    close(lines->fd);
    lines->fd = -1;
}
