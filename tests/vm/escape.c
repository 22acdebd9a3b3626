/* What somebody tries who has taken over a machine's process. Prints a line for each attempt: its name, and "done" or the
 * number of the error. Arguments: a file and a socket of another machine, and a process of the host.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *other_file, *other_socket;
static pid_t stranger;
static char words_of_a_page[4096];

static bool start_shell(void)
{
    char *const words[] = {"/bin/true", NULL};
    return execv(words[0], words) == 0;
}

static bool trace(void)
{
    return ptrace(PTRACE_SEIZE, stranger, NULL, NULL) == 0;
}

static bool mount_something(void)
{
    return unshare(CLONE_NEWNS) == 0 && mount("none", "/proc", "tmpfs", 0, NULL) == 0;
}

static bool open_mount(void)
{
    return syscall(428, AT_FDCWD, "/proc", 1) >= 0;
}

static bool load_program(void)
{
    union bpf_attr map = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
    return syscall(SYS_bpf, BPF_MAP_CREATE, &map, sizeof map) >= 0;
}

static bool use_keys(void)
{
    return syscall(SYS_add_key, "user", "escape", "x", (size_t)1, -3) >= 0;
}

static bool handle_faults(void)
{
    return syscall(SYS_userfaultfd, O_CLOEXEC) >= 0;
}

static bool see_packets(void)
{
    return socket(AF_PACKET, SOCK_RAW, 0) >= 0;
}

static bool ask_kernel(void)
{
    return socket(AF_NETLINK, SOCK_RAW, 0) >= 0;
}

static bool open_ring(void)
{
    char parameters[256] = {0};
    return syscall(425, 4, parameters) >= 0;
}

static bool read_passwords(void)
{
    return open("/etc/shadow", O_RDONLY) >= 0;
}

static bool read_other(void)
{
    return open(other_file, O_RDONLY) >= 0;
}

static bool read_above(void)
{
    return open("../other/secret", O_RDONLY) >= 0;
}

static bool connect_other(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", other_socket);
    return connect(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&address, sizeof address) == 0;
}

static bool make_user_namespace(void)
{
    return unshare(CLONE_NEWUSER) == 0;
}

static bool clone_namespace(void)
{
    return syscall(SYS_clone, CLONE_NEWNET | SIGCHLD, NULL, NULL, NULL, NULL) >= 0;
}

static bool enter_namespace(void)
{
    return setns(open("/proc/self/ns/uts", O_RDONLY), 0) == 0;
}

static bool become_root(void)
{
    return setresgid(0, 0, 0) == 0 && setresuid(0, 0, 0) == 0;
}

static bool see_stranger(void)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/environ", stranger);
    return open(path, O_RDONLY) >= 0;
}

static bool signal_stranger(void)
{
    return kill(stranger, 0) == 0;
}

/* Its parent, which is as confined and runs as the same user, stands for a machine that was forked of the same one. */
static bool signal_relative(void)
{
    return syscall(SYS_tgkill, getppid(), getppid(), 0) == 0;
}

static bool queue_to_relative(void)
{
    siginfo_t words = {.si_code = SI_QUEUE};
    return syscall(SYS_rt_tgsigqueueinfo, getppid(), getppid(), 0, &words) == 0;
}

static bool own_relative(void)
{
    int ends[2];
    return pipe(ends) == 0 && fcntl(ends[0], F_SETOWN, getppid()) == 0;
}

static bool choose_signal(void)
{
    int ends[2];
    return pipe(ends) == 0 && fcntl(ends[0], F_SETSIG, SIGKILL) == 0;
}

static bool own_by_ioctl(void)
{
    int ends[2], relative = getppid();
    return socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0 && ioctl(ends[0], FIOSETOWN, &relative) == 0;
}

static bool limit_relative(void)
{
    const struct rlimit limit = {1, 1};
    return prlimit(getppid(), RLIMIT_MSGQUEUE, &limit, NULL) == 0;
}

static bool rank_relative(void)
{
    return syscall(SYS_ioprio_set, 1, getppid(), 3 << 13) == 0;
}

/* What follows would set what is already so, or what slows nobody: outside of a jail it is to succeed. */
static bool slow_relative(void)
{
    return setpriority(PRIO_PROCESS, (id_t)getppid(), getpriority(PRIO_PROCESS, (id_t)getppid())) == 0;
}

static bool slow_user(void)
{
    return setpriority(PRIO_USER, 0, getpriority(PRIO_PROCESS, 0)) == 0;
}

static bool schedule_relative(void)
{
    const struct sched_param none = {0};
    return syscall(SYS_sched_setscheduler, getppid(), SCHED_BATCH, &none) == 0;
}

static bool set_parameters_of_relative(void)
{
    const struct sched_param none = {0};
    return syscall(SYS_sched_setparam, getppid(), &none) == 0;
}

static bool set_attributes_of_relative(void)
{
    const unsigned attributes[12] = {sizeof attributes, SCHED_BATCH}; /* its size, how it is scheduled */
    return syscall(SYS_sched_setattr, getppid(), attributes, 0) == 0;
}

static bool confine_relative(void)
{
    cpu_set_t processors;
    return sched_getaffinity(getppid(), sizeof processors, &processors) == 0 &&
           sched_setaffinity(getppid(), sizeof processors, &processors) == 0;
}

static bool move_relative(void)
{
    void *page = &words_of_a_page;
    int status = 0;
    return syscall(SYS_move_pages, getppid(), 1UL, &page, NULL, &status, 0) == 0;
}

static bool make_device(void)
{
    return mknod("device", S_IFCHR | 0600, makedev(1, 5)) == 0 && open("device", O_RDONLY) >= 0 && unlink("device") == 0;
}

static bool plant_link(void)
{
    return symlink("/etc/shadow", "planted") == 0 && unlink("planted") == 0;
}

static bool write_root(void)
{
    return mkdir("/escape", 0700) == 0 && rmdir("/escape") == 0;
}

static bool change_settings(void)
{
    return open("/proc/sys/kernel/core_pattern", O_WRONLY) >= 0;
}

static bool raise_limit(void)
{
    char byte = 0;
    int file = open("file", O_RDWR | O_CREAT, 0600);
    signal(SIGXFSZ, SIG_IGN);
    bool done = file >= 0 && pwrite(file, &byte, 1, 1L << 30) == 1;
    int error = errno;
    ftruncate(file, 0);
    errno = error;
    return done;
}

static const struct {
    const char *name;
    bool (*try)(void);
} attempts[] = {
    {"execve", start_shell},
    {"ptrace", trace},
    {"mount", mount_something},
    {"open_tree", open_mount},
    {"bpf", load_program},
    {"keyctl", use_keys},
    {"userfaultfd", handle_faults},
    {"packets", see_packets},
    {"netlink", ask_kernel},
    {"io_uring", open_ring},
    {"shadow", read_passwords},
    {"other's file", read_other},
    {"the folder above", read_above},
    {"other's socket", connect_other},
    {"user namespace", make_user_namespace},
    {"clone", clone_namespace},
    {"setns", enter_namespace},
    {"root", become_root},
    {"other's environment", see_stranger},
    {"signal", signal_stranger},
    {"signal to a relative", signal_relative},
    {"queued signal to a relative", queue_to_relative},
    {"relative as an owner", own_relative},
    {"chosen signal", choose_signal},
    {"relative as an owner by ioctl", own_by_ioctl},
    {"relative's limits", limit_relative},
    {"relative's rank", rank_relative},
    {"relative's niceness", slow_relative},
    {"niceness of all relatives", slow_user},
    {"relative's scheduler", schedule_relative},
    {"relative's parameters", set_parameters_of_relative},
    {"relative's attributes", set_attributes_of_relative},
    {"relative's processors", confine_relative},
    {"relative's pages", move_relative},
    {"device", make_device},
    {"planted link", plant_link},
    {"write root", write_root},
    {"settings", change_settings},
    {"large file", raise_limit},
};

/* Each in a process of its own: what one gains is no help to the next. */
static void attempt(const char *name, bool (*try)(void))
{
    int status = 0;
    pid_t child = fork();
    if (child == 0)
        _exit(try() ? 0 : errno ? errno : 255);
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status))
        printf("%s: signal %d\n", name, WTERMSIG(status));
    else if (WEXITSTATUS(status) == 0)
        printf("%s: done\n", name);
    else
        printf("%s: %s\n", name, strerror(WEXITSTATUS(status)));
}

int main(int count, char **words)
{
    if (count != 4)
        return 2;
    other_file = words[1];
    other_socket = words[2];
    stranger = atoi(words[3]);
    setvbuf(stdout, NULL, _IONBF, 0);
    for (size_t i = 0; i < sizeof attempts / sizeof *attempts; i++)
        attempt(attempts[i].name, attempts[i].try);
    return 0;
}
