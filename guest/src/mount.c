/* MOUNT and UNMOUNT: volumes, each on a drive beside the root disk. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "child.h"
#include "clock.h"
#include "jobs.h"
#include "mount.h"
#include "path.h"

#define EXT4_RESIZE _IOW('f', 16, uint64_t) /* EXT4_IOC_RESIZE_FS of the kernel's fs/ext4/ext4.h */
#define BLOCK_SIZE_OF_VOLUMES 4096u
#define DRIVE_PATIENCE (3 * NS_PER_S)
#define DRIVE_PAUSE_NS 500000

static bool own_machine;

void mount_own_machine(void)
{
    own_machine = true;
}

/* ioctl(2): the C libraries do not agree on the type of its request. */
static bool control(int fd, unsigned long request, uint64_t *number)
{
    return syscall(SYS_ioctl, fd, request, number) == 0;
}

static bool has_size(const char *device, uint64_t size)
{
    uint64_t found = 0;
    int fd = open(device, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool known = control(fd, BLKGETSIZE64, &found);
    close(fd);
    return known && found == size;
}

/* The kernel learns of a drive's new size by an interrupt, some time after the host has put it in. */
static void await_drive(const char *device, uint64_t size)
{
    static const struct timespec pause = {.tv_nsec = DRIVE_PAUSE_NS};
    uint64_t deadline = monotonic_ns() + DRIVE_PATIENCE;
    while (!has_size(device, size)) {
        if (monotonic_ns() > deadline)
            answer_done(ENODEV, device);
        nanosleep(&pause, NULL);
    }
}

static void make_place(const char *path)
{
    bool made = mkdir(path, 0755) == 0 || errno == EEXIST;
    if (!made && errno == ENOENT && path_make_parents(path))
        made = mkdir(path, 0755) == 0;
    if (!made)
        answer_done(errno, path);
}

/* To the size of its drive, which the host may have made larger; at once when it is that large. */
static void grow(const char *path, uint64_t size)
{
    uint64_t blocks = size / BLOCK_SIZE_OF_VOLUMES;
    int root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root < 0 || !control(root, EXT4_RESIZE, &blocks))
        answer_done(errno, "grow the volume");
    close(root);
}

void job_mount(const struct fields *fields, int content)
{
    (void)content;
    char device[] = "/dev/vdb";
    const char *path = fields_string(fields, TAG_PATH);
    uint64_t size = fields_number(fields, TAG_SIZE, 0);
    bool read_only = fields_flag(fields, TAG_READ_ONLY);
    if (!own_machine)
        return;
    if (strcmp(path, "/") == 0) { /* it is mounted, and its disk may have been made larger than it was */
        device[sizeof device - 2] = 'a';
        await_drive(device, size);
        grow(path, size);
        return;
    }
    device[sizeof device - 2] = (char)('b' + fields_number(fields, TAG_DRIVE, 0));
    await_drive(device, size);
    make_place(path);
    int failed = mount(device, path, "ext4", MS_NODEV | MS_NOSUID | (read_only ? MS_RDONLY : 0), "noinit_itable");
    if (failed != 0 && (errno != EBUSY || read_only)) /* EBUSY: it is mounted there already, and may have to grow */
        answer_done(errno, path);
    if (!read_only)
        grow(path, size);
}

/* What was written is on the volume, also when somebody holds a file of it open and it stays. */
void job_unmount(const struct fields *fields, int content)
{
    (void)content;
    const char *path = fields_string(fields, TAG_PATH);
    if (!own_machine)
        return;
    int root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root < 0)
        answer_done(errno, path);
    int error = syncfs(root) == 0 ? 0 : errno;
    close(root);
    if (umount2(path, UMOUNT_NOFOLLOW) != 0)
        answer_done(errno, path);
    if (error != 0)
        answer_done(error, path);
}
