/* MOVE. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "child.h"
#include "content.h"
#include "jobs.h"
#include "path.h"
#include "remove.h"
#include "tree.h"

static volatile sig_atomic_t stopped;
static struct place target;
static char copy_name[NAME_MAX + 1]; /* the root of the copy, beside the target */
static dev_t device;                 /* where the source lives: the copy crosses no mount in it */

static void stop(int number)
{
    (void)number;
    stopped = 1;
}

/* The copy of a visited entry, as a path from the target's directory. False when it would be too long. */
static bool copy_path(const struct visit *visit, char into[PATH_MAX])
{
    int size = snprintf(into, PATH_MAX, visit->depth == 0 ? "%s" : "%s/%s", copy_name, visit->path);
    return size > 0 && size < PATH_MAX;
}

static int copy_attributes(const char *path, const struct stat *status)
{
    const struct timespec times[2] = {status->st_atim, status->st_mtim};
    if (fchownat(target.directory, path, status->st_uid, status->st_gid, AT_SYMLINK_NOFOLLOW) != 0 && errno != EPERM)
        return errno;
    if (!S_ISLNK(status->st_mode) && fchmodat(target.directory, path, status->st_mode & 07777, 0) != 0)
        return errno;
    return utimensat(target.directory, path, times, AT_SYMLINK_NOFOLLOW) == 0 ? 0 : errno;
}

static int copy_bytes(int from, int into)
{
    static int pipes[2] = {-1, -1};
    uint64_t moved = 0;
    if (pipes[0] < 0 && pipe2(pipes, O_CLOEXEC) != 0)
        return errno;
    for (;;) {
        ssize_t got = splice(from, NULL, pipes[1], NULL, 65536, 0);
        if (got <= 0)
            return got == 0 ? 0 : errno;
        if (!content_move(pipes[0], into, (uint64_t)got, &moved))
            return errno;
        if (stopped)
            return ECANCELED;
    }
}

static int copy_file(const struct visit *visit, const char *path)
{
    int from = openat(visit->directory, visit->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (from < 0)
        return errno;
    int into = openat(target.directory, path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    int error = into < 0 ? errno : copy_bytes(from, into);
    if (into >= 0)
        close(into);
    close(from);
    return error;
}

static int copy_link(const struct visit *visit, const char *path)
{
    char link[PATH_MAX];
    ssize_t size = readlinkat(visit->directory, visit->name, link, sizeof link - 1);
    if (size < 0)
        return errno;
    link[size] = '\0';
    return symlinkat(link, target.directory, path) == 0 ? 0 : errno;
}

static int copy_node(const struct visit *visit, const char *path)
{
    const struct stat *status = visit->status;
    if (S_ISREG(status->st_mode))
        return copy_file(visit, path);
    if (S_ISLNK(status->st_mode))
        return copy_link(visit, path);
    return mknodat(target.directory, path, (status->st_mode & S_IFMT) | 0600, status->st_rdev) == 0 ? 0 : errno;
}

static int copy_entry(const struct visit *visit)
{
    char path[PATH_MAX];
    if (stopped)
        return ECANCELED;
    if (visit->depth == 0)
        device = visit->status->st_dev;
    if (visit->status->st_dev != device)
        return EBUSY;
    if (!copy_path(visit, path))
        return ENAMETOOLONG;
    if (S_ISDIR(visit->status->st_mode))
        return mkdirat(target.directory, path, 0700) == 0 ? 0 : errno;
    int error = copy_node(visit, path);
    return error != 0 ? error : copy_attributes(path, visit->status);
}

static int copy_directory_attributes(const struct visit *visit)
{
    char path[PATH_MAX];
    return copy_path(visit, path) ? copy_attributes(path, visit->status) : ENAMETOOLONG;
}

/* The target is never half there: the copy gets its name when it is whole, and the source goes after that. */
static int move_across(const char *path)
{
    static const struct walk walk = {.enter = copy_entry, .leave = copy_directory_attributes, .depth = TREE_DEPTH_MAX};
    if (!path_temporary_name(copy_name))
        return errno;
    signal(SIGTERM, stop);
    int error = tree_walk(AT_FDCWD, path, &walk);
    if (error == 0 && renameat(target.directory, copy_name, target.directory, target.name) != 0)
        error = errno;
    if (error != 0) {
        remove_tree(target.directory, copy_name);
        return error;
    }
    return remove_tree(AT_FDCWD, path);
}

void job_move(const struct fields *fields, int content)
{
    (void)content;
    struct stat status;
    const char *path = fields_string(fields, TAG_PATH);
    if (lstat(path, &status) != 0)
        answer_done(errno, path);
    if (!path_place(fields_string(fields, TAG_TARGET), &target))
        answer_done(errno, fields_string(fields, TAG_TARGET));
    if (renameat(AT_FDCWD, path, target.directory, target.name) == 0)
        answer_done(0, NULL);
    answer_done(errno == EXDEV ? move_across(path) : errno, path);
}
