#include "boot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "console.h"
#include "lines.h"
#include "machine.h"
#include "network.h"
#include "tree.h"
#include "vsock.h"

#define DISK "/dev/vda"
#define ROOT "/disk"
#define PORTS "/sys/class/virtio-ports"
#define PORT_NAME "pandastack"
#define PATIENCE (10 * NS_PER_S)
#define OPEN_FILES 4096       /* soft: the agent's own need; programs that want more raise it */
#define OPEN_FILES_MAX 1048576

struct file_system {
    const char *type;
    const char *at;
    unsigned long flags;
    const char *options;
};

#define PLAIN (MS_NOSUID | MS_NODEV | MS_NOEXEC)

static const struct file_system file_systems[] = {
    {"proc", "/proc", PLAIN, NULL},
    {"sysfs", "/sys", PLAIN, NULL},
    {"devtmpfs", "/dev", MS_NOSUID, "mode=0755"},
    {"devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666"},
    {"tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777"},
    {"tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755"},
    {"cgroup2", "/sys/fs/cgroup", PLAIN, NULL},
};

static void pause_briefly(void)
{
    struct timespec brief = {.tv_nsec = 5 * 1000 * 1000};
    nanosleep(&brief, NULL);
}

static bool load_module(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    long loaded = syscall(SYS_finit_module, fd, "", 0);
    int error = errno;
    close(fd);
    unlink(path);
    errno = error;
    return loaded == 0 || error == EEXIST;
}

/* The memory of an initramfs is freed file by file: what has served is removed. */
static void load_modules(void)
{
    struct lines lines;
    if (!lines_open(&lines, "/modules"))
        return;
    for (char *line; (line = lines_next(&lines)) != NULL;)
        if (*line != '\0' && *line != '#' && !load_module(line))
            complain(line, errno);
    lines_close(&lines);
    unlink("/modules");
}

static void wait_for_disk(void)
{
    uint64_t deadline = monotonic_ns() + PATIENCE;
    while (access(DISK, F_OK) != 0) {
        if (monotonic_ns() > deadline)
            give_up(DISK, errno);
        pause_briefly();
    }
}

static void enter_disk(void)
{
    mkdir(ROOT, 0755);
    if (mount(DISK, ROOT, "ext4", MS_NOATIME, NULL) != 0)
        give_up("mount " DISK, errno);
    umount2("/dev", MNT_DETACH);
    unlink("/init");
    if (chdir(ROOT) != 0 || mount(".", "/", NULL, MS_MOVE, NULL) != 0 || chroot(".") != 0 || chdir("/") != 0)
        give_up("enter the disk", errno);
}

static void mount_file_systems(void)
{
    for (size_t at = 0; at < sizeof file_systems / sizeof *file_systems; at++) {
        const struct file_system *one = &file_systems[at];
        mkdir(one->at, 0755);
        if (mount(one->type, one->at, one->type, one->flags, one->options) != 0)
            complain(one->at, errno);
    }
    mkdir("/tmp", 0777);
    chmod("/tmp", 01777);
}

/* devtmpfs knows devices only; shells count on these. */
static void link_standard(void)
{
    static const char *const links[][2] = {{"/proc/self/fd", "/dev/fd"},
                                           {"/proc/self/fd/0", "/dev/stdin"},
                                           {"/proc/self/fd/1", "/dev/stdout"},
                                           {"/proc/self/fd/2", "/dev/stderr"}};
    for (size_t at = 0; at < sizeof links / sizeof *links; at++)
        if (symlink(links[at][0], links[at][1]) != 0 && errno != EEXIST)
            complain(links[at][1], errno);
}

/* The console of the initramfs is another file system's: reopened, so that nothing holds that one. */
static void open_console(void)
{
    int fd = open("/dev/console", O_RDWR | O_NOCTTY | O_CLOEXEC);
    for (int number = 0; fd >= 0 && number <= 2; number++)
        if (fd != number)
            dup2(fd, number);
    if (fd > 2)
        close(fd);
}

static void raise_limits(void)
{
    struct rlimit files = {.rlim_cur = OPEN_FILES, .rlim_max = OPEN_FILES_MAX};
    if (setrlimit(RLIMIT_NOFILE, &files) != 0)
        complain("open files", errno);
}

void boot(void)
{
    mkdir("/dev", 0755);
    if (mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, NULL) != 0 && errno != EBUSY)
        complain("/dev", errno);
    open_console();
    load_modules();
    wait_for_disk();
    enter_disk();
    mount_file_systems();
    open_console();
    link_standard();
    raise_limits();
    if (!network_loopback())
        complain("loopback", errno);
    if (!machine_prepare())
        give_up("prepare the machine", errno);
}

static int port = -1;

/* Opens the port behind an entry of sysfs when its name is ours. */
static int open_if_ours(const struct visit *visit)
{
    char path[300];
    char name[sizeof PORT_NAME + 1] = "";
    if (visit->depth == 0 || port >= 0)
        return 0;
    snprintf(path, sizeof path, PORTS "/%s/name", visit->name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t size = read(fd, name, sizeof name);
    close(fd);
    if (size != (ssize_t)sizeof PORT_NAME || memcmp(name, PORT_NAME "\n", sizeof PORT_NAME) != 0)
        return 0;
    snprintf(path, sizeof path, "/dev/%s", visit->name);
    port = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    return 0;
}

static bool find_port(void)
{
    static const struct walk ports = {.enter = open_if_ours, .depth = 1, .forgiving = true};
    return tree_walk(AT_FDCWD, PORTS, &ports) == 0 && port >= 0;
}

/* A machine has one of the two, whose driver may still be looking for it. */
struct way boot_open_way(void)
{
    uint64_t deadline = monotonic_ns() + PATIENCE;
    for (; monotonic_ns() < deadline; pause_briefly()) {
        if (find_port())
            return (struct way){.fd = port};
        int listener = vsock_is_there() ? vsock_listen(VSOCK_PORT) : -1;
        if (listener >= 0)
            return (struct way){.fd = listener, .listens = true};
    }
    give_up("no virtio port named " PORT_NAME " and no vsock", 0);
}
