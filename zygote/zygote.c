/* A fork server inside QEMU, preloaded into it.
 *
 * QEMU spends half of its start on what is the same for every machine of a template: linking fifty libraries, registering
 * thousands of types, parsing options. This library lets one process do that once. It takes the call of seccomp_init(),
 * which QEMU makes after its options are parsed and before it opens anything or confines itself, and waits there on a
 * socket. Each request forks a child, which takes its own directory, descriptors and name and goes on as if it had been
 * started with them; its own confinement, chardevs, disks and memory come after that point.
 *
 * One SOCK_SEQPACKET message each way. Request: "HOME\0NAME\0" with descriptors: log, then those that appear in the child
 * as FIRST_FD, FIRST_FD+1 … Answer: "F pid" or "E errno". When a child ends: "D pid status" (as waitpid gives it).
 * The server process ends when the socket does. Without PANDASTACK_ZYGOTE_FD in the environment it does nothing.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FIRST_FD = 100, MAX_FDS = 8, MESSAGE = 8192 };

/* What the command line holds in place of the machine's name; children write theirs over it, so that ps tells them apart. */
static const char PLACEHOLDER[] = "pandastack-################################################################";

struct request {
    char text[MESSAGE];
    const char *home;
    const char *name;
    int fds[MAX_FDS];
    int count;
};

static int own_argc;
static char **own_argv;

/* glibc hands the program's arguments to constructors. */
__attribute__((constructor)) static void remember(int argc, char **argv, char **envp)
{
    (void)envp;
    own_argc = argc;
    own_argv = argv;
}

static void tell(int channel, char kind, long first, long second)
{
    char line[64];
    int length = kind == 'D' ? snprintf(line, sizeof line, "D %ld %ld", first, second)
                             : snprintf(line, sizeof line, "%c %ld", kind, first);
    if (send(channel, line, (size_t)length, MSG_NOSIGNAL) < 0)
        _exit(0);
}

static void close_all(const struct request *request)
{
    for (int i = 0; i < request->count; i++)
        close(request->fds[i]);
}

static void take_descriptors(struct request *request, struct msghdr *message)
{
    request->count = 0;
    for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part; part = CMSG_NXTHDR(message, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
            continue;
        request->count = (int)((part->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(request->fds, CMSG_DATA(part), (size_t)request->count * sizeof(int));
    }
}

/* 1: a request; 0: not one of ours, answered; the process ends when the other side has gone. */
static int receive(int channel, struct request *request)
{
    char control[CMSG_SPACE(MAX_FDS * sizeof(int))];
    struct iovec text = {request->text, sizeof request->text - 1};
    struct msghdr message = {.msg_iov = &text, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t length = recvmsg(channel, &message, MSG_CMSG_CLOEXEC);
    if (length <= 0)
        _exit(0);
    request->text[length] = 0;
    take_descriptors(request, &message);
    request->home = request->text;
    request->name = request->text + strlen(request->text) + 1;
    if (request->name < request->text + length && request->count > 0 && !(message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
        return 1;
    close_all(request);
    tell(channel, 'E', EINVAL, 0);
    return 0;
}

static void rename_self(const char *name)
{
    for (int i = 0; i < own_argc; i++) {
        if (strcmp(own_argv[i], PLACEHOLDER) != 0)
            continue;
        size_t room = strlen(own_argv[i]);
        memset(own_argv[i], 0, room);
        strncpy(own_argv[i], name, room);
    }
}

/* In the child: become the machine that was asked for. */
static void become(const struct request *request, int channel, int signals, const sigset_t *mask)
{
    setsid();
    close(channel);
    close(signals);
    if (chdir(request->home) != 0)
        _exit(111);
    dup2(request->fds[0], STDOUT_FILENO);
    dup2(request->fds[0], STDERR_FILENO);
    for (int i = 1; i < request->count; i++)
        dup2(request->fds[i], FIRST_FD + i - 1);
    close_all(request);
    rename_self(request->name);
    sigprocmask(SIG_SETMASK, mask, NULL);
}

static void report_ended(int channel, int signals)
{
    struct signalfd_siginfo ignored;
    int status;
    pid_t pid;
    if (read(signals, &ignored, sizeof ignored) < 0 && errno != EAGAIN)
        _exit(0);
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        tell(channel, 'D', pid, status);
}

/* Returns in each child; the server itself never does. */
static void serve(int channel)
{
    static struct request request;
    sigset_t child_ended, before;
    sigemptyset(&child_ended);
    sigaddset(&child_ended, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child_ended, &before);
    int signals = signalfd(-1, &child_ended, SFD_CLOEXEC | SFD_NONBLOCK);
    for (;;) {
        struct pollfd watched[] = {{channel, POLLIN, 0}, {signals, POLLIN, 0}};
        if (poll(watched, 2, -1) < 0 && errno != EINTR)
            _exit(1);
        if (watched[1].revents)
            report_ended(channel, signals);
        if (!watched[0].revents || !receive(channel, &request))
            continue;
        pid_t pid = fork();
        if (pid == 0) {
            become(&request, channel, signals, &before);
            return;
        }
        close_all(&request);
        tell(channel, pid < 0 ? 'E' : 'F', pid < 0 ? errno : pid, 0);
    }
}

/* libseccomp's own, which QEMU calls once to confine itself. */
__attribute__((visibility("default"))) void *seccomp_init(unsigned int action)
{
    void *(*original)(unsigned int) = (void *(*)(unsigned int))dlsym(RTLD_NEXT, "seccomp_init");
    const char *channel = getenv("PANDASTACK_ZYGOTE_FD");
    if (channel) {
        int number = atoi(channel);
        unsetenv("PANDASTACK_ZYGOTE_FD");
        unsetenv("LD_PRELOAD");
        serve(number);
    }
    return original(action);
}
