#include "plain.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

int plain_open(const char *path, int flags, mode_t mode)
{
    int all = flags | O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
    int file = open(path, all, mode);
    if (file < 0 && errno == ELOOP && unlink(path) == 0)
        file = open(path, all, mode);
    return file;
}
