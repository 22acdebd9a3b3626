#include "serve.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "child.h"
#include "clock.h"
#include "console.h"
#include "dial.h"
#include "end.h"
#include "farewell.h"
#include "freezer.h"
#include "guard.h"
#include "hooks.h"
#include "process.h"
#include "session.h"
#include "stream.h"

#define TURNS_AT_ONCE 8 /* before looking for events again */

static struct end signals = {.fd = -1};

/* A program that starts the agent may have ignored signals; those would stay ignored in every child. */
static void reset_signals(void)
{
    for (int number = 1; number < NSIG; number++)
        signal(number, SIG_DFL);
}

static void open_signals(void)
{
    sigset_t wanted;
    sigemptyset(&wanted);
    sigaddset(&wanted, SIGCHLD);
    if (getpid() != 1) {
        sigaddset(&wanted, SIGTERM);
        sigaddset(&wanted, SIGINT);
    }
    int fd = signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0 || !end_open(&signals, fd, NULL))
        give_up("signalfd", errno);
}

/* The numbers 0, 1 and 2 must never be those of a pipe. */
static void occupy_standard(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    while (fd >= 0 && fd <= 2);
    if (fd >= 0)
        close(fd);
}

void serve_prepare(void)
{
    reset_signals();
    child_block_signals();
    occupy_standard();
    umask(022);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    open_signals();
    processes_open();
    streams_open();
    session_open();
}

static void reap(void)
{
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
        if (!hooks_reaped(pid, status) && !freezer_reaped(pid, status) && !process_reaped(pid, status))
            stream_reaped(pid);
}

static void take_signals(void)
{
    struct signalfd_siginfo got[8];
    struct iovec into = {got, sizeof got};
    if (!signals.ready)
        return;
    ssize_t size = end_read(&signals, &into, 1);
    for (ssize_t at = 0; at * (ssize_t)sizeof *got < size; at++)
        if (got[at].ssi_signo != SIGCHLD)
            farewell();
    reap();
}

static int timeout_ms(void)
{
    static uint64_t (*const deadlines[])(void) = {link_deadline, processes_deadline, hooks_deadline, freezer_deadline,
                                              dials_deadline};
    uint64_t soonest = NEVER;
    for (size_t at = 0; at < sizeof deadlines / sizeof *deadlines; at++)
        if (deadlines[at]() < soonest)
            soonest = deadlines[at]();
    if (soonest == NEVER)
        return -1;
    uint64_t now = monotonic_ns();
    uint64_t wait = soonest <= now ? 0 : (soonest - now + NS_PER_MS - 1) / NS_PER_MS;
    return wait > 1000000 ? 1000000 : (int)wait;
}

static void expire(void)
{
    uint64_t deadline = processes_deadline();
    if (deadline != NEVER && deadline <= monotonic_ns())
        processes_expire();
    hooks_expire();
    freezer_expire();
    dials_expire();
    guard_expire();
}

static bool turn(void)
{
    bool moved = link_receive(&session_reader);
    moved |= processes_drain(streams_slowest);
    moved |= session_turn();
    return link_flush() || moved;
}

_Noreturn void serve(void)
{
    for (bool moved = false;;) {
        ends_wait(moved || guard_holds() ? 0 : timeout_ms());
        expire();
        take_signals();
        moved = true;
        for (int turns = 0; moved && turns < TURNS_AT_ONCE; turns++)
            moved = turn();
    }
}
