/* The one place where a child begins: the fuzz targets have another. */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "child.h"
#include "clock.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h> /* a child that becomes a program leaves marks on the stack that the next one gets */
#else
#define ASAN_UNPOISON_MEMORY_REGION(memory, size) ((void)(memory), (void)(size))
#endif

#define SPAWN_STACK (64u * 1024)
#define SPAWN_PATIENCE (100 * NS_PER_MS)
#define SPAWN_ALARM SIGRTMAX /* no program is killed by this one by chance */

static void unblock_signals(void)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

pid_t child_fork(void)
{
    /* Not the C library's fork: that blocks and restores signals for handlers and locks that are not here. */
    pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (pid == 0)
        unblock_signals();
    return pid;
}

struct order {
    child_body *body;
    const void *argument;
};

/* The timer goes with execve(2), unlike alarm(2)'s. */
static void limit_patience(void)
{
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SPAWN_ALARM};
    struct itimerspec patience = {.it_value = {.tv_nsec = (long)SPAWN_PATIENCE}};
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) == 0)
        timer_settime(timer, 0, &patience, NULL);
}

static int enter(void *argument)
{
    const struct order *order = argument;
    limit_patience();
    unblock_signals();
    order->body(order->argument);
    return 0;
}

static bool ran_out_of_patience(pid_t pid)
{
    siginfo_t info = {0};
    return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid &&
           info.si_code == CLD_KILLED && info.si_status == SPAWN_ALARM && waitpid(pid, NULL, 0) == pid;
}

pid_t child_spawn(child_body *body, const void *argument)
{
    static _Alignas(16) uint8_t stack[SPAWN_STACK];
    struct order order = {body, argument};
    ASAN_UNPOISON_MEMORY_REGION(stack, sizeof stack);
    uint64_t began = monotonic_ns();
    pid_t pid = clone(enter, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, &order);
    if (pid > 0 && monotonic_ns() - began >= SPAWN_PATIENCE && ran_out_of_patience(pid)) {
        errno = ETIMEDOUT;
        return -1;
    }
    return pid;
}
