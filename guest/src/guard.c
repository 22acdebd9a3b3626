#include "guard.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "child.h"
#include "clock.h"

#define MUSTER_NS (100 * NS_PER_MS) /* how long the other processors may take to be held */

/* What the agent shares with those that hold the other processors for it. */
struct watch {
    atomic_uint round;    /* another one: they go */
    atomic_uint standing; /* how many have come */
};

static bool own_machine;
static struct watch *watch;
static cpu_set_t all;
static uint64_t deadline = NEVER;

/* The system calls: a C library may refuse this one, as what it does to a thread is not what POSIX says of processes. */
static bool make_first(pid_t pid)
{
    struct sched_param first = {.sched_priority = 99};
    return syscall(SYS_sched_setscheduler, pid, SCHED_FIFO | SCHED_RESET_ON_FORK, &first) == 0;
}

static bool is_first(void)
{
    return syscall(SYS_sched_getscheduler, 0) == (SCHED_FIFO | SCHED_RESET_ON_FORK);
}

static void become_ordinary(void)
{
    struct sched_param ordinary = {.sched_priority = 0};
    syscall(SYS_sched_setscheduler, 0, SCHED_OTHER, &ordinary);
}

static bool keep_on(size_t processor, pid_t pid)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(processor, &one);
    return sched_setaffinity(pid, sizeof one, &one) == 0;
}

void guard_own_machine(void)
{
    own_machine = sched_getaffinity(0, sizeof all, &all) == 0;
    if (CPU_COUNT(&all) < 2)
        return;
    watch = mmap(NULL, sizeof *watch, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    own_machine = watch != MAP_FAILED;
}

static _Noreturn void stand_on(size_t processor, unsigned int round)
{
    bool standing = false;
    while (atomic_load(&watch->round) == round && monotonic_ns() < deadline)
        if (!standing && is_first() && (size_t)sched_getcpu() == processor) {
            standing = true;
            atomic_fetch_add(&watch->standing, 1);
        }
    _exit(0);
}

static bool post(size_t processor, unsigned int round)
{
    pid_t pid = child_fork();
    if (pid == 0)
        stand_on(processor, round);
    return pid > 0 && keep_on(processor, pid) && make_first(pid);
}

/* A child for each processor but the agent's own, which puts it there: one that had to wait for its turn might wait long. */
static bool muster(void)
{
    unsigned int wanted = (unsigned int)CPU_COUNT(&all) - 1;
    unsigned int round = atomic_fetch_add(&watch->round, 1) + 1;
    uint64_t patience = monotonic_ns() + MUSTER_NS;
    size_t here = (size_t)sched_getcpu();
    atomic_store(&watch->standing, 0);
    if (!keep_on(here, 0))
        return false;
    for (size_t processor = 0; processor < CPU_SETSIZE; processor++)
        if (CPU_ISSET(processor, &all) && processor != here && !post(processor, round))
            return false;
    while (atomic_load(&watch->standing) < wanted && monotonic_ns() < patience)
        continue;
    return atomic_load(&watch->standing) == wanted;
}

int guard_hold(uint32_t ttl_ms)
{
    if (!own_machine)
        return 0;
    deadline = monotonic_ns() + ttl_ms * NS_PER_MS;
    if (make_first(0) && (watch == NULL || muster()))
        return 0;
    guard_release();
    return EBUSY;
}

bool guard_holds(void)
{
    return deadline != NEVER;
}

void guard_release(void)
{
    if (deadline == NEVER)
        return;
    deadline = NEVER;
    become_ordinary();
    if (watch == NULL)
        return;
    atomic_fetch_add(&watch->round, 1);
    sched_setaffinity(0, sizeof all, &all);
}

void guard_expire(void)
{
    if (deadline <= monotonic_ns())
        guard_release();
}
