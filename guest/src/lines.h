/* A text file, line by line, from a fixed buffer. */
#ifndef LINES_H
#define LINES_H

#include <stdbool.h>
#include <stddef.h>

#define LINE_MAX_SIZE 4096

struct lines {
    int fd;
    size_t start;
    size_t end;
    bool skipping; /* in the rest of a line that is too long */
    char buffer[LINE_MAX_SIZE];
};

/* Opens a regular file. False with errno. */
bool lines_open(struct lines *lines, const char *path);

/* The next line without its newline, as a C string that lives until the next call; NULL at the end.
 * Lines that do not fit the buffer or hold a NUL are passed over. */
char *lines_next(struct lines *lines);
void lines_close(struct lines *lines);

#endif
