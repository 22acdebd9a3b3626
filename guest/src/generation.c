#include "generation.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static int file = -1;
static unsigned lives; /* is in the snapshot with the rest of the memory, so it counts along a line of forks */

static bool make_folder(const char *root, const char *name)
{
    char path[PATH_MAX];
    int size = snprintf(path, sizeof path, "%s%s", root, name);
    if (size < 0 || (size_t)size >= sizeof path) {
        errno = ENAMETOOLONG;
        return false;
    }
    return mkdir(path, 0755) == 0 || errno == EEXIST;
}

bool generation_prepare(const char *root)
{
    char path[PATH_MAX];
    if (!make_folder(root, "/run") || !make_folder(root, "/run/pandastack"))
        return false;
    snprintf(path, sizeof path, "%s/run/pandastack/generation", root);
    file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0444);
    return file >= 0;
}

bool generation_renew(struct span machine_id)
{
    char line[64];
    if (file < 0)
        return true;
    lives++;
    int size = snprintf(line, sizeof line, "%.*s %u\n", (int)machine_id.size, (const char *)machine_id.data, lives);
    return pwrite(file, line, (size_t)size, 0) == size;
}
