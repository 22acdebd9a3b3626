#include "wipe.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME "wipe-on-restore"
#define PATH "/etc/pandastack/" NAME
#define LIST_MAX 4096 /* bytes */
#define PROCESSES_MAX 1024
#define RANGES_MAX 4
#define BYTES_MAX (1ul << 20) /* of all of them */

struct range {
    unsigned long from, to;
};

/* A process is the same for as long as its folder in /proc has the same inode. */
struct process {
    int pid;
    ino_t inode;
    bool kernels; /* a thread of the kernel: it never becomes a program */
    struct range ranges[RANGES_MAX];
    size_t count;
};

static char path[PATH_MAX];
static bool known_absent; /* until the next life */
static bool left_out;
static char list[LIST_MAX + 1];
static struct process known[PROCESSES_MAX], found[PROCESSES_MAX];
static size_t knowns, founds;

void wipe_prepare(const char *root)
{
    int size = snprintf(path, sizeof path, "%s" PATH, root);
    if (size < 0 || (size_t)size >= sizeof path)
        path[0] = '\0';
}

/* The list between line ends; false when there is none, or one that others than the agent's user can have written. */
static bool read_list(void)
{
    struct stat status;
    int file = path[0] == '\0' ? -1 : open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (file < 0)
        return false;
    bool trusted = fstat(file, &status) == 0 && S_ISREG(status.st_mode) && status.st_uid == geteuid() &&
                   (status.st_mode & (S_IWGRP | S_IWOTH)) == 0;
    ssize_t size = trusted ? read(file, list + 1, LIST_MAX - 2) : -1;
    close(file);
    left_out |= size < 0;
    if (size <= 0)
        return false;
    list[0] = list[size + 1] = '\n';
    list[size + 2] = '\0';
    return true;
}

/* Whether its program is in the list. One without a program, a thread of the kernel, is marked as such. */
static bool is_listed(int folder, const char *name, struct process *one)
{
    char link[32], line[PATH_MAX + 2];
    snprintf(link, sizeof link, "%.20s/exe", name);
    ssize_t size = readlinkat(folder, link, line + 1, PATH_MAX - 1);
    one->kernels = size < 0;
    if (size < 0)
        return false;
    line[0] = line[size + 1] = '\n';
    line[size + 2] = '\0';
    return strstr(list, line) != NULL;
}

/* Where its memory is wiped in a child. */
static void find_ranges(int folder, const char *name, struct process *one)
{
    static char line[PATH_MAX + 128];
    char file[32], mode[8];
    struct range range, last = {0, 0};
    unsigned long bytes = 0;
    one->count = 0;
    snprintf(file, sizeof file, "%.20s/smaps", name);
    int fd = openat(folder, file, O_RDONLY | O_CLOEXEC);
    FILE *in = fd < 0 ? NULL : fdopen(fd, "r");
    if (in == NULL)
        return;
    setvbuf(in, NULL, _IOFBF, 1 << 16);
    while (fgets(line, sizeof line, in) != NULL) {
        if (sscanf(line, "%lx-%lx %7s", &range.from, &range.to, mode) == 3)
            last = range;
        else if (strncmp(line, "VmFlags:", 8) == 0 && strstr(line, " wf") != NULL) {
            bytes += last.to - last.from;
            left_out |= one->count == RANGES_MAX || bytes > BYTES_MAX;
            if (one->count < RANGES_MAX && bytes <= BYTES_MAX)
                one->ranges[one->count++] = last;
        }
    }
    fclose(in);
}

static bool wipe(int folder, const char *name, const struct process *one)
{
    static const char nothing[4096];
    char file[32];
    if (one->count == 0)
        return true;
    snprintf(file, sizeof file, "%.20s/mem", name);
    int memory = openat(folder, file, O_WRONLY | O_CLOEXEC);
    bool done = memory >= 0;
    for (size_t at = 0; done && at < one->count; at++)
        for (unsigned long page = one->ranges[at].from; done && page < one->ranges[at].to; page += sizeof nothing)
            done = pwrite(memory, nothing, sizeof nothing, (off_t)page) == sizeof nothing;
    if (memory >= 0)
        close(memory);
    return done;
}

static const struct process *recall(int pid, ino_t inode)
{
    for (size_t at = 0; at < knowns; at++)
        if (known[at].pid == pid)
            return known[at].inode == inode ? &known[at] : NULL;
    return NULL;
}

/* One that has begun another program meanwhile does not have that memory where the old one had it. */
static void take_in(int folder, const char *name, ino_t inode, bool wiping)
{
    struct process one = {.pid = atoi(name), .inode = inode};
    const struct process *old = recall(one.pid, inode);
    if (founds == PROCESSES_MAX) {
        left_out = true;
        return;
    }
    if (old != NULL && old->kernels)
        one.kernels = true;
    else if (is_listed(folder, name, &one)) {
        if (old != NULL)
            one = *old;
        if (one.count == 0 || (wiping && !wipe(folder, name, &one))) {
            find_ranges(folder, name, &one);
            left_out |= wiping && !wipe(folder, name, &one);
        }
    }
    found[founds++] = one;
}

static void look(bool wiping)
{
    int fd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);
    if (folder == NULL) {
        left_out = true;
        return;
    }
    founds = 0;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;)
        if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9')
            take_in(fd, entry->d_name, entry->d_ino, wiping);
    closedir(folder);
    memcpy(known, found, founds * sizeof *found);
    knowns = founds;
}

void wipe_seal(void)
{
    known_absent = !read_list();
    if (!known_absent)
        look(false);
}

void wipe_all(void)
{
    bool skip = known_absent;
    known_absent = left_out = false;
    if (!skip && read_list())
        look(true);
}

void wipe_tell(struct writer *writer)
{
    if (left_out)
        put_text(writer, TAG_HOOKS_FAILED, NAME);
}
