#define _GNU_SOURCE
#include "root.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Of <linux/mount.h>, which cannot stand beside the C library's own. */
enum {
    SYS_OPEN_TREE = 428, SYS_MOVE_MOUNT, SYS_FSOPEN, SYS_FSCONFIG, SYS_FSMOUNT, SYS_MOUNT_SETATTR = 442,
    TREE_CLONE = 1, FROM_EMPTY_PATH = 4, SET_STRING = 1, CREATE = 6,
    ATTR_RDONLY = 1, ATTR_NOSUID = 2, ATTR_NODEV = 4, ATTR_NOEXEC = 8, EMPTY_PATH = 0x1000, PATH = 512,
};

struct attributes {
    uint64_t set, clear, propagation, user_namespace;
};

static bool set(int tree, uint64_t attributes)
{
    const struct attributes wanted = {.set = attributes};
    return syscall(SYS_MOUNT_SETATTR, tree, "", EMPTY_PATH, &wanted, sizeof wanted) == 0;
}

static bool attach(int tree, int root, const char *target)
{
    return syscall(SYS_MOVE_MOUNT, tree, "", root, target, FROM_EMPTY_PATH) == 0;
}

/* A file system of a kind that needs no device; `options` are pairs. */
static int file_system(const char *kind, const char *const *options, unsigned attributes)
{
    int context = (int)syscall(SYS_FSOPEN, kind, 1 /* close on exec */);
    if (context < 0)
        return -1;
    for (; *options; options += 2)
        if (syscall(SYS_FSCONFIG, context, SET_STRING, options[0], options[1], 0) != 0)
            return -1;
    if (syscall(SYS_FSCONFIG, context, CREATE, NULL, NULL, 0) != 0)
        return -1;
    int tree = (int)syscall(SYS_FSMOUNT, context, 0, attributes);
    close(context);
    return tree;
}

/* The folders above, and the place itself: a folder or an empty file. */
static bool make_place(int root, const char *target, bool is_folder)
{
    char path[PATH];
    if (strlen(target) >= sizeof path) {
        errno = ENAMETOOLONG;
        return false;
    }
    strcpy(path, target);
    for (char *slash = path; (slash = strchr(slash, '/')); *slash++ = '/') {
        *slash = 0;
        if (mkdirat(root, path, 0755) != 0 && errno != EEXIST)
            return false;
    }
    if (is_folder)
        return mkdirat(root, path, 0755) == 0 || errno == EEXIST;
    int file = openat(root, path, O_WRONLY | O_CREAT | O_CLOEXEC, 0444);
    return file >= 0 && close(file) == 0;
}

/* A node of our own, which the user may open whoever may on the host: that one's group is none of ours. */
static bool add_device(int root, const struct bind *bind, unsigned user)
{
    struct stat status;
    bool done = stat(bind->source, &status) == 0 && mknodat(root, bind->target, S_IFCHR | 0660, status.st_rdev) == 0 &&
                fchmodat(root, bind->target, 0660, 0) == 0 && fchownat(root, bind->target, 0, user, AT_SYMLINK_NOFOLLOW) == 0;
    return done || (unlinkat(root, bind->target, 0), false);
}

static bool bind_one(int root, const struct bind *bind, unsigned user)
{
    if (!bind->how)
        return make_place(root, bind->target, true) && unlinkat(root, bind->target, AT_REMOVEDIR) == 0 &&
               symlinkat(bind->source, root, bind->target) == 0;
    if (strchr(bind->how, 'd') && add_device(root, bind, user))
        return true;
    struct stat status;
    uint64_t attributes = ATTR_RDONLY | ATTR_NOSUID;
    attributes |= strchr(bind->how, 'x') ? 0 : ATTR_NOEXEC;
    attributes |= strchr(bind->how, 'd') ? 0 : ATTR_NODEV;
    int tree = (int)syscall(SYS_OPEN_TREE, AT_FDCWD, bind->source, TREE_CLONE | O_CLOEXEC);
    bool done = tree >= 0 && fstat(tree, &status) == 0 && set(tree, attributes) &&
                make_place(root, bind->target, S_ISDIR(status.st_mode)) && attach(tree, root, bind->target);
    if (!done)
        fprintf(stderr, "the jail cannot have %s: %s\n", bind->source, strerror(errno));
    close(tree);
    return done;
}

/* What a process may know of itself, and of nobody else. */
static bool add_proc(int root)
{
    static const char *const options[] = {"hidepid", "invisible", "subset", "pid", NULL};
    int tree = file_system("proc", options, ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC);
    bool done = tree >= 0 && make_place(root, "proc", true) && attach(tree, root, "proc");
    close(tree);
    return done;
}

/* The one folder where devices work. */
static int add_devices(int root)
{
    static const char *const options[] = {"size", "64k", "mode", "0755", NULL};
    int tree = file_system("tmpfs", options, ATTR_NOSUID | ATTR_NOEXEC);
    if (tree >= 0 && make_place(root, "dev", true) && attach(tree, root, "dev"))
        return tree;
    close(tree);
    return -1;
}

bool root_change(const struct order *order)
{
    static const char *const options[] = {"size", "1m", "mode", "0755", NULL};
    if (mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        return false;
    int root = file_system("tmpfs", options, ATTR_NOSUID | ATTR_NODEV);
    if (root < 0 || !attach(root, AT_FDCWD, "/"))
        return false;
    int devices = add_devices(root);
    for (int i = 0; i < order->bind_count; i++)
        if (!bind_one(root, &order->binds[i], order->user))
            return false;
    bool done = devices >= 0 && set(devices, ATTR_RDONLY | ATTR_NOSUID | ATTR_NOEXEC) && add_proc(root) &&
                fchdir(root) == 0 && syscall(SYS_pivot_root, ".", ".") == 0 &&
                umount2(".", MNT_DETACH) == 0 && chdir("/") == 0 &&
                set(root, ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC);
    close(devices);
    close(root);
    return done;
}
