#include "freezer.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "child.h"
#include "clock.h"

static bool own_machine;
static pid_t worker; /* 0: none */
static bool unwanted; /* the worker is to leave nothing frozen behind */
static bool frozen;
static int outcome;
static uint64_t deadline = NEVER;

void freezer_own_machine(void)
{
    own_machine = true;
}

/* ioctl(2): the C libraries do not agree on the type of its request. */
static long control(int fd, unsigned long request)
{
    return syscall(SYS_ioctl, fd, request, 0);
}

/* Flushed before it is frozen: who writes meanwhile waits for what is left only. */
static _Noreturn void freeze(void)
{
    int root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root < 0 || syncfs(root) != 0 || control(root, FIFREEZE) != 0)
        _exit(errno);
    _exit(0);
}

static void thaw(void)
{
    int root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root < 0)
        return;
    control(root, FITHAW);
    close(root);
}

int freezer_freeze(uint32_t ttl_ms)
{
    if (worker > 0)
        return EBUSY;
    outcome = 0;
    if (!own_machine)
        return 0;
    deadline = monotonic_ns() + ttl_ms * NS_PER_MS;
    if (frozen)
        return 0;
    pid_t pid = child_fork();
    if (pid == 0)
        freeze();
    if (pid < 0) {
        deadline = NEVER;
        return errno;
    }
    worker = pid;
    unwanted = false;
    return 0;
}

bool freezer_busy(void)
{
    return worker > 0;
}

int freezer_error(void)
{
    return outcome;
}

/* A worker that was killed may have frozen all the same: a call of the kernel's is done to its end. */
static void settle(int status)
{
    worker = 0;
    outcome = WIFEXITED(status) ? WEXITSTATUS(status) : ECANCELED;
    frozen = outcome == 0 && !unwanted;
    if (frozen)
        return;
    deadline = NEVER;
    if (outcome == 0 || outcome == ECANCELED) {
        outcome = ECANCELED;
        thaw();
    }
}

bool freezer_reaped(pid_t pid, int status)
{
    if (worker == 0 || pid != worker)
        return false;
    settle(status);
    return true;
}

void freezer_thaw(void)
{
    deadline = NEVER;
    if (worker > 0) {
        unwanted = true;
        kill(worker, SIGKILL);
    } else if (frozen) {
        frozen = false;
        thaw();
    }
}

void freezer_release(void)
{
    int status;
    freezer_thaw();
    if (worker > 0 && waitpid(worker, &status, 0) == worker)
        settle(status);
}

uint64_t freezer_deadline(void)
{
    return deadline;
}

void freezer_expire(void)
{
    if (deadline != NEVER && deadline <= monotonic_ns())
        freezer_thaw();
}
