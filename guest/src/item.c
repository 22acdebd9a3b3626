#include "item.h"

#include <limits.h>
#include <unistd.h>

#include "clock.h"

char item_kind(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFREG:
        return 'f';
    case S_IFDIR:
        return 'd';
    case S_IFLNK:
        return 'l';
    case S_IFIFO:
        return 'p';
    case S_IFSOCK:
        return 's';
    case S_IFCHR:
        return 'c';
    default:
        return 'b';
    }
}

/* Times before 1970 are told as 1970: the wire knows no negative number. */
static uint64_t since_1970(struct timespec time)
{
    return time.tv_sec < 0 ? 0 : (uint64_t)time.tv_sec * NS_PER_S + (uint64_t)time.tv_nsec;
}

void item_put_status(struct writer *writer, const struct stat *status)
{
    char kind = item_kind(status->st_mode);
    put_number(writer, TAG_SIZE, (uint64_t)status->st_size);
    put_number(writer, TAG_MODE, status->st_mode & 07777);
    put_number(writer, TAG_MTIME_NS, since_1970(status->st_mtim));
    put_field(writer, TAG_KIND, &kind, 1);
}

void item_put(struct writer *writer, const char *name, size_t name_size, const struct stat *status, int directory,
              const char *entry)
{
    char link[PATH_MAX];
    size_t item = put_open(writer, TAG_ITEM);
    put_field(writer, TAG_NAME, name, name_size);
    item_put_status(writer, status);
    put_number(writer, TAG_UID, status->st_uid);
    put_number(writer, TAG_GID, status->st_gid);
    put_number(writer, TAG_CTIME_NS, since_1970(status->st_ctim));
    ssize_t size = S_ISLNK(status->st_mode) ? readlinkat(directory, entry, link, sizeof link) : -1;
    if (size >= 0)
        put_field(writer, TAG_LINK, link, (size_t)size);
    put_close(writer, item);
}
