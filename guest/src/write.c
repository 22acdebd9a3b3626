/* WRITE. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "child.h"
#include "content.h"
#include "item.h"
#include "jobs.h"
#include "path.h"

#define MODE_DEFAULT 0644

/* The target, and the file that is to take its place. */
static struct place target;
static char temporary[NAME_MAX + 1];

/* Nothing is left of a file that did not become whole. */
static _Noreturn void abandon(int number)
{
    (void)number;
    unlinkat(target.directory, temporary, 0);
    _exit(0);
}

static _Noreturn void fail(const char *what)
{
    int error = errno;
    if (temporary[0] != '\0')
        unlinkat(target.directory, temporary, 0);
    answer_done(error, what);
}

/* The name is there before the file is, so that abandon() cannot come too early. */
static int create_temporary(const char *path)
{
    if (!path_temporary_name(temporary))
        fail("random name");
    signal(SIGTERM, abandon);
    int file = openat(target.directory, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (file < 0) {
        temporary[0] = '\0';
        fail(path);
    }
    return file;
}

static uint64_t receive(int file, int content, const char *path)
{
    uint64_t size = 0;
    struct writer ready = answer_begin();
    answer_send(FRAME_OPENED, &ready);
    if (!content_move(content, file, UINT64_MAX, &size))
        fail(path);
    if (!answer_committed())
        abandon(0);
    return size;
}

/* Owner first: changing it clears the set-id bits. */
static bool set_owner_and_mode(int file, const struct stat *old, mode_t mode)
{
    if (old != NULL && (old->st_uid != geteuid() || old->st_gid != getegid()) &&
        fchown(file, old->st_uid, old->st_gid) != 0)
        return false;
    return fchmod(file, mode) == 0;
}

static uint64_t replace(const struct fields *fields, int content, const struct stat *old, const char *path)
{
    mode_t kept = old == NULL ? MODE_DEFAULT : old->st_mode & 07777;
    int file = create_temporary(path);
    uint64_t size = receive(file, content, path);
    if (!set_owner_and_mode(file, old, (mode_t)fields_number(fields, TAG_FILE_MODE, kept)))
        fail("keep owner and mode");
    if (renameat(target.directory, temporary, target.directory, target.name) != 0)
        fail(path);
    return size;
}

static uint64_t write_through(int content, const char *path)
{
    int file = openat(target.directory, target.name, O_WRONLY | O_NOCTTY | O_NOFOLLOW | O_CLOEXEC);
    if (file < 0)
        fail(path);
    return receive(file, content, path);
}

void job_write(const struct fields *fields, int content)
{
    struct stat old;
    const char *path = fields_string(fields, TAG_PATH);
    if (!path_place_of_target(path, &target))
        answer_done(errno, path);
    bool exists = fstatat(target.directory, target.name, &old, AT_SYMLINK_NOFOLLOW) == 0;
    if (!exists && errno != ENOENT)
        answer_done(errno, path);
    if (exists && S_ISDIR(old.st_mode))
        answer_done(EISDIR, path);
    uint64_t size = exists && !S_ISREG(old.st_mode) ? write_through(content, path)
                                                    : replace(fields, content, exists ? &old : NULL, path);
    struct writer done = answer_begin();
    put_number(&done, TAG_ERRNO, 0);
    put_number(&done, TAG_SIZE, size);
    answer_send(FRAME_DONE, &done);
    _exit(0);
}
