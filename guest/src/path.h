/* Paths, as a worker takes them from the host: absolute, any bytes. */
#ifndef PATH_H
#define PATH_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* A directory, open, and the name of an entry in it. */
struct place {
    int directory;
    char name[NAME_MAX + 1];
};

/* The last part of `path`, without slashes behind it; empty for the root. `size` becomes its length. */
const char *path_name(const char *path, size_t *size);

/* Makes the directories that `path` stands in, with mode 0755. False with errno. */
bool path_make_parents(const char *path);

/* Opens the directory that `path` stands in, making it where it is missing. False with errno. */
bool path_place(const char *path, struct place *place);

/* The same for what `path` leads to by symbolic links, which need not be there. */
bool path_place_of_target(const char *path, struct place *place);

/* Fills `name` with a name that nothing has yet, for what will be renamed once it is whole. False with errno. */
bool path_temporary_name(char name[NAME_MAX + 1]);

#endif
