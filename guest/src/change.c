/* MKDIR, REMOVE and CHMOD. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "child.h"
#include "jobs.h"
#include "path.h"
#include "remove.h"
#include "tree.h"

static bool is_directory(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

void job_mkdir(const struct fields *fields, int content)
{
    (void)content;
    const char *path = fields_string(fields, TAG_PATH);
    bool made = mkdir(path, 0755) == 0;
    if (!made && errno == ENOENT && path_make_parents(path))
        made = mkdir(path, 0755) == 0;
    if (!made && !(errno == EEXIST && is_directory(path)))
        answer_done(errno == 0 ? EEXIST : errno, path);
    if (made && fields_has(fields, TAG_FILE_MODE) && chmod(path, (mode_t)fields_number(fields, TAG_FILE_MODE, 0)) != 0)
        answer_done(errno, path);
}

static bool is_root(const char *path)
{
    struct stat root;
    struct stat status;
    return stat("/", &root) == 0 && lstat(path, &status) == 0 && root.st_dev == status.st_dev &&
           root.st_ino == status.st_ino;
}

static int remove_file(const struct visit *visit)
{
    if (S_ISDIR(visit->status->st_mode))
        return 0;
    return unlinkat(visit->directory, visit->name, 0) == 0 || errno == ENOENT ? 0 : errno;
}

static int remove_directory(const struct visit *visit)
{
    return unlinkat(visit->directory, visit->name, AT_REMOVEDIR) == 0 || errno == ENOENT ? 0 : errno;
}

int remove_tree(int directory, const char *name)
{
    static const struct walk walk = {.enter = remove_file, .leave = remove_directory, .depth = TREE_DEPTH_MAX};
    return tree_walk(directory, name, &walk);
}

void job_remove(const struct fields *fields, int content)
{
    (void)content;
    const char *path = fields_string(fields, TAG_PATH);
    if (is_root(path))
        answer_done(EINVAL, path);
    if (fields_flag(fields, TAG_RECURSIVE))
        answer_done(remove_tree(AT_FDCWD, path), path);
    if (unlink(path) != 0 && (errno != EISDIR || rmdir(path) != 0))
        answer_done(errno, path);
}

static mode_t asked_mode;

/* By way of a descriptor: the name could have become a link to elsewhere meanwhile. */
static int change_mode(const struct visit *visit)
{
    char path[32];
    struct stat status;
    int file = openat(visit->directory, visit->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (file < 0)
        return errno;
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    bool skip = fstat(file, &status) != 0 || S_ISLNK(status.st_mode);
    int error = skip || chmod(path, asked_mode) == 0 ? 0 : errno;
    close(file);
    return error;
}

static int change_file_mode(const struct visit *visit)
{
    return S_ISDIR(visit->status->st_mode) || S_ISLNK(visit->status->st_mode) ? 0 : change_mode(visit);
}

void job_chmod(const struct fields *fields, int content)
{
    (void)content;
    static const struct walk walk = {.enter = change_file_mode, .leave = change_mode, .depth = TREE_DEPTH_MAX};
    const char *path = fields_string(fields, TAG_PATH);
    asked_mode = (mode_t)fields_number(fields, TAG_FILE_MODE, 0);
    if (fields_flag(fields, TAG_RECURSIVE) && is_directory(path)) {
        int directory = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC); /* also by way of a link */
        answer_done(directory < 0 ? errno : tree_walk(directory, ".", &walk), path);
    }
    if (chmod(path, asked_mode) != 0)
        answer_done(errno, path);
}
