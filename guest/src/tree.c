#include "tree.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

struct entry {
    uint64_t inode;
    int64_t offset;
    uint16_t size;
    uint8_t type;
    char name[];
};

/* The path of the entry that is visited; grows and shrinks as the walk goes down and up. */
static char path[PATH_MAX];

static int walk_entry(const struct walk *walk, struct visit visit);

static bool is_dots(const char *name)
{
    return name[0] == '.' && (name[1] == '\0' || (name[1] == '.' && name[2] == '\0'));
}

/* The visit of `name` in the directory that `parent` is the visit of. */
static int walk_child(const struct walk *walk, const struct visit *parent, int directory, const char *name)
{
    size_t start = parent->path_size + (parent->path_size > 0);
    size_t size = strlen(name);
    if (start + size >= sizeof path)
        return ENAMETOOLONG;
    if (parent->path_size > 0)
        path[parent->path_size] = '/';
    memcpy(path + start, name, size + 1);
    return walk_entry(walk, (struct visit){.directory = directory,
                                           .name = name,
                                           .path = path,
                                           .path_size = start + size,
                                           .depth = parent->depth + 1});
}

static int walk_directory(const struct walk *walk, const struct visit *visit, int directory)
{
    _Alignas(struct entry) char buffer[4096];
    for (;;) {
        long got = syscall(SYS_getdents64, directory, buffer, sizeof buffer);
        if (got <= 0)
            return got < 0 && !walk->forgiving ? errno : 0;
        for (long at = 0; at < got;) {
            const struct entry *entry = (const struct entry *)(buffer + at);
            int error = is_dots(entry->name) ? 0 : walk_child(walk, visit, directory, entry->name);
            if (error != 0)
                return error;
            at += entry->size;
        }
    }
}

static int walk_into(const struct walk *walk, const struct visit *visit)
{
    if (visit->depth >= walk->depth)
        return 0;
    if (visit->depth >= TREE_DEPTH_MAX)
        return ELOOP;
    int directory = openat(visit->directory, visit->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (directory < 0)
        return walk->forgiving ? 0 : errno;
    int error = walk_directory(walk, visit, directory);
    close(directory);
    path[visit->path_size] = '\0';
    return error;
}

static int walk_entry(const struct walk *walk, struct visit visit)
{
    struct stat status;
    if (fstatat(visit.directory, visit.name, &status, AT_SYMLINK_NOFOLLOW) != 0)
        return walk->forgiving || (errno == ENOENT && visit.depth > 0) ? 0 : errno;
    visit.status = &status;
    int error = walk->enter(&visit);
    if (error == 0 && S_ISDIR(status.st_mode))
        error = walk_into(walk, &visit);
    if (error == 0 && S_ISDIR(status.st_mode) && walk->leave != NULL)
        error = walk->leave(&visit);
    return error;
}

int tree_walk(int directory, const char *name, const struct walk *walk)
{
    path[0] = '\0';
    return walk_entry(walk, (struct visit){.directory = directory, .name = name, .path = path});
}
