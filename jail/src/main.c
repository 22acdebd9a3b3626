/* Starts one program in a jail: namespaces of its own, a root that holds what it needs, a user of its own, no capabilities,
 * limits. Arguments: the numbers of two descriptors, of a file with the order (see order.h) and of a SOCK_SEQPACKET socket
 * where it is told "P" by the process that becomes the program, so that the kernel names it to the other side, and "E errno
 * step" when it does not. All other descriptors are passed on.
 *
 * The process is a child of whoever started us: we end at once. Its exit status is theirs to collect; with a parent of its
 * own (order `i`) it is not.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/capability.h>

#include "denied.h"
#include "order.h"
#include "root.h"

static int report;
static struct order order;

static void say(const char *words)
{
    send(report, words, strlen(words), MSG_NOSIGNAL);
}

static void must(bool done, const char *step)
{
    if (done)
        return;
    char words[64];
    snprintf(words, sizeof words, "E %d %s", errno, step);
    say(words);
    _exit(127);
}

static bool write_file(const char *path, const char *words)
{
    int file = open(path, O_WRONLY | O_CLOEXEC);
    bool done = file >= 0 && write(file, words, strlen(words)) == (ssize_t)strlen(words);
    close(file);
    return done;
}

/* What needs the old root. */
static void take_part(void)
{
    if (order.badness)
        must(write_file("/proc/self/oom_score_adj", order.badness), "oom_score_adj");
    for (int i = 0; i < order.group_count; i++)
        must(write_file(order.groups[i], "0"), "cgroup");
}

static bool has(uint64_t capabilities, int which)
{
    return capabilities >> which & 1;
}

static bool keep_capabilities(uint64_t kept)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct sets[2] = {{0}};
    for (int half = 0; half < 2; half++)
        sets[half].effective = sets[half].permitted = (uint32_t)(kept >> 32 * half);
    return syscall(SYS_capset, &header, sets) == 0;
}

static bool drop_bounds(uint64_t kept)
{
    for (int which = 0; prctl(PR_CAPBSET_READ, which, 0, 0, 0) >= 0; which++)
        if (!has(kept, which) && prctl(PR_CAPBSET_DROP, which, 0, 0, 0) != 0)
            return false;
    return prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) == 0;
}

/* By the system calls themselves: there is one thread. */
static bool change_user(unsigned user)
{
    return syscall(SYS_setgroups, 0, NULL) == 0 && syscall(SYS_setresgid, user, user, user) == 0 &&
           syscall(SYS_setresuid, user, user, user) == 0;
}

static void limit_itself(void)
{
    for (int i = 0; i < order.limit_count; i++) {
        const struct rlimit limit = {order.limits[i].value, order.limits[i].value};
        must(setrlimit(order.limits[i].which, &limit) == 0, "limit");
    }
}

static void drop_rights(void)
{
    must(drop_bounds(order.capabilities), "bounding set");
    must(change_user(order.user), "user");
    must(keep_capabilities(order.user == 0 ? order.capabilities : 0), "capabilities");
    must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no_new_privs");
}

static void become(void)
{
    umask(077);
    must(order.home < 0 || fchdir(order.home) == 0, "home");
    limit_itself();
    drop_rights();
    must(!order.has_filter || denied_load(order.signals), "filter");
    say("P");
    execve(order.arguments[0], (char *const *)order.arguments, (char *const *)order.environment);
    must(false, order.arguments[0]);
}

/* The first process of its namespace, which ends when it is the last one. */
static void look_after(void)
{
    syscall(SYS_close_range, 0, ~0U, 0);
    keep_capabilities(0);
    for (;;)
        if (wait(NULL) < 0 && errno == ECHILD)
            _exit(0);
}

static pid_t clone_with(uint64_t flags)
{
    struct clone_args arguments = {.flags = flags, .exit_signal = flags & CLONE_PARENT ? 0 : SIGCHLD};
    return (pid_t)syscall(SYS_clone3, &arguments, sizeof arguments);
}

int main(int count, char **words)
{
    const uint64_t spaces = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
    if (count != 3)
        return 2;
    int file = atoi(words[1]);
    report = atoi(words[2]);
    fcntl(report, F_SETFD, FD_CLOEXEC);
    must(order_read(file, &order), "order");
    close(file);
    if (order.home >= 0)
        fcntl(order.home, F_SETFD, FD_CLOEXEC);
    pid_t first = clone_with(spaces | (order.has_parent ? 0 : CLONE_PARENT));
    must(first >= 0, "namespaces");
    if (first > 0)
        _exit(0);
    setsid();
    take_part();
    must(sethostname("sandbox", 7) == 0, "hostname");
    must(root_change(&order), "root");
    if (order.has_parent) {
        pid_t second = fork();
        must(second >= 0, "fork");
        if (second > 0)
            look_after();
        setsid();
    }
    become();
}
