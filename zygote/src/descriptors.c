#define _GNU_SOURCE
#include "descriptors.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { MAX_EVENTS = 256, MAX_FILES = 32, MAX_OTHERS = 16, NAME = 64, PATH = 4096 };

/* The name of the socket where the agent's connection is listened for. */
static const char AGENT[] = "/agent";

struct file {
    int fd;
    int flags;
    char name[NAME]; /* in the home */
};

static int events[MAX_EVENTS];
static int event_count;
static struct file files[MAX_FILES];
static int file_count;
static int connection; /* of the agent */
static int others[MAX_OTHERS]; /* connections to the monitor, and whatever else this process alone is to have */
static int other_count;

static bool is_connection(int fd)
{
    int domain = 0, listens = 1, type = 0;
    socklen_t size = sizeof domain;
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) != 0 || domain != AF_UNIX)
        return false;
    getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size);
    getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size);
    return !listens && type == SOCK_STREAM;
}

static bool note_event(int fd)
{
    if (event_count == MAX_EVENTS)
        return false;
    events[event_count++] = fd;
    return true;
}

static bool note_file(int fd, const char *name)
{
    if (file_count == MAX_FILES || strlen(name) >= NAME)
        return false;
    struct file *file = &files[file_count++];
    file->fd = fd;
    file->flags = fcntl(fd, F_GETFL) & (O_ACCMODE | O_APPEND | O_DIRECT | O_NONBLOCK);
    strcpy(file->name, name);
    return true;
}

/* The address of an accepted connection is that of its listener. */
static bool is_agents(int fd)
{
    struct sockaddr_un address = {0};
    socklen_t size = sizeof address - 1;
    if (getsockname(fd, (struct sockaddr *)&address, &size) != 0)
        return false;
    const char *name = strrchr(address.sun_path, '/');
    return name && strcmp(name, AGENT) == 0;
}

static bool note_other(int fd)
{
    if (other_count == MAX_OTHERS)
        return false;
    others[other_count++] = fd;
    return true;
}

static bool note_connection(int fd)
{
    if (!is_agents(fd))
        return note_other(fd);
    if (connection > 0)
        return false;
    connection = fd;
    return true;
}

/* The home has no path where this process is: a file is of it that is there under its own name. */
static const char *name_in_home(int fd, const char *target)
{
    struct stat file, there;
    const char *slash = strrchr(target, '/');
    if (!slash || fstat(fd, &file) != 0 || fstatat(AT_FDCWD, slash + 1, &there, AT_SYMLINK_NOFOLLOW) != 0)
        return NULL;
    bool same = S_ISREG(there.st_mode) && file.st_dev == there.st_dev && file.st_ino == there.st_ino;
    return same ? slash + 1 : NULL;
}

static bool note(int fd)
{
    char link[32], target[PATH];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, target, sizeof target - 1);
    if (length < 0)
        return true; /* that of the folder which is read */
    target[length] = 0;
    const char *name = name_in_home(fd, target);
    if (strcmp(target, "anon_inode:[eventfd]") == 0)
        return note_event(fd);
    if (name)
        return note_file(fd, name);
    return !is_connection(fd) || note_connection(fd);
}

bool descriptors_note(int channel)
{
    bool good = true;
    event_count = file_count = other_count = connection = 0;
    DIR *folder = opendir("/proc/self/fd");
    if (!folder)
        return false;
    for (struct dirent *entry; good && (entry = readdir(folder));) {
        int fd = atoi(entry->d_name);
        if (fd != channel && fd != dirfd(folder) && entry->d_name[0] != '.')
            good = note(fd);
    }
    closedir(folder);
    return good && connection > 0;
}

static bool replace(int fd, int by)
{
    if (by < 0 || by == fd)
        return by == fd;
    bool done = dup3(by, fd, fd > STDERR_FILENO ? O_CLOEXEC : 0) == fd;
    close(by);
    return done;
}

static bool is_set(int event)
{
    struct pollfd polled = {event, POLLIN, 0};
    return poll(&polled, 1, 0) == 1;
}

/* A connection whose other end has gone. */
static int dead_end(void)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) != 0)
        return -1;
    close(ends[1]);
    return ends[0];
}

bool descriptors_let_go(const int *own, int count)
{
    bool done = replace(connection, dead_end());
    for (int i = 0; done && i < other_count; i++)
        done = replace(others[i], dead_end());
    for (int i = 0; done && i < count; i++)
        done = replace(own[i], dead_end());
    return done;
}

void descriptors_await_first(int milliseconds)
{
    struct pollfd polled = {connection, POLLIN, 0};
    poll(&polled, 1, milliseconds);
}

/* A layer that nobody writes any more may be open for writing all the same, and is not the child's to write. */
static int open_as(const struct file *file)
{
    int fd = open(file->name, file->flags | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0 && errno == EACCES)
        fd = open(file->name, (file->flags & ~O_ACCMODE) | O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    return fd;
}

bool descriptors_renew(int listener)
{
    for (int i = 0; i < event_count; i++)
        if (!replace(events[i], eventfd(is_set(events[i]), EFD_NONBLOCK | EFD_CLOEXEC)))
            return false;
    for (int i = 0; i < file_count; i++)
        if (!replace(files[i].fd, open_as(&files[i])))
            return false;
    return replace(connection, accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC));
}
