/* System files that must be plain files, whatever an image has in their place. */
#ifndef PLAIN_H
#define PLAIN_H

#include <sys/types.h>

/* Opens `path` for writing, made where it is missing; a symbolic link gives way to a file. -1 with errno. Never
 * blocks, whatever is there. */
int plain_open(const char *path, int flags, mode_t mode);

#endif
