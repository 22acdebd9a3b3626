#include "path.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define LINKS_MAX 40 /* as many as the kernel follows */

const char *path_name(const char *path, size_t *size)
{
    const char *end = path + strlen(path);
    while (end > path && end[-1] == '/')
        end--;
    const char *name = end;
    while (name > path && name[-1] != '/')
        name--;
    *size = (size_t)(end - name);
    return name;
}

bool path_make_parents(const char *path)
{
    char parent[PATH_MAX];
    size_t unused;
    size_t size = (size_t)(path_name(path, &unused) - path);
    if (size >= sizeof parent) {
        errno = ENAMETOOLONG;
        return false;
    }
    memcpy(parent, path, size);
    parent[size] = '\0';
    for (size_t at = 1; at < size; at++) {
        if (parent[at] != '/')
            continue;
        parent[at] = '\0';
        if (mkdir(parent, 0755) != 0 && errno != EEXIST)
            return false;
        parent[at] = '/';
    }
    return true;
}

static int open_parent(const char *path, size_t size)
{
    char parent[PATH_MAX];
    if (size >= sizeof parent) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(parent, path, size);
    parent[size] = '\0';
    return open(parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

bool path_place(const char *path, struct place *place)
{
    size_t size;
    const char *name = path_name(path, &size);
    if (size == 0 || size > NAME_MAX) {
        errno = size == 0 ? EINVAL : ENAMETOOLONG;
        return false;
    }
    memcpy(place->name, name, size);
    place->name[size] = '\0';
    place->directory = open_parent(path, (size_t)(name - path));
    if (place->directory < 0 && errno == ENOENT && path_make_parents(path))
        place->directory = open_parent(path, (size_t)(name - path));
    return place->directory >= 0;
}

/* Replaces the last part of `path` by what the symbolic link of that name holds. 0 when it is none, -1 with errno. */
static int follow_link(char path[PATH_MAX])
{
    char link[PATH_MAX];
    size_t unused;
    ssize_t size = readlink(path, link, sizeof link);
    if (size < 0)
        return errno == EINVAL || errno == ENOENT ? 0 : -1;
    size_t kept = link[0] == '/' ? 0 : (size_t)(path_name(path, &unused) - path);
    if (kept + (size_t)size >= PATH_MAX) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(path + kept, link, (size_t)size);
    path[kept + (size_t)size] = '\0';
    return 1;
}

bool path_place_of_target(const char *path, struct place *place)
{
    char target[PATH_MAX];
    if (strlen(path) >= sizeof target) {
        errno = ENAMETOOLONG;
        return false;
    }
    memcpy(target, path, strlen(path) + 1);
    int followed = 1;
    for (int links = 0; followed > 0 && links < LINKS_MAX; links++)
        followed = follow_link(target);
    if (followed > 0)
        errno = ELOOP;
    return followed == 0 && path_place(target, place);
}

bool path_temporary_name(char name[NAME_MAX + 1])
{
    unsigned long long number;
    if (getrandom(&number, sizeof number, 0) != sizeof number)
        return false;
    snprintf(name, NAME_MAX + 1, ".pandastack-%016llx.tmp", number);
    return true;
}
