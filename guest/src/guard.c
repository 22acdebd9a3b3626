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

#define MUSTER_NS (20 * NS_PER_MS) /* how long the other processors may take to be held */

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
static bool become_first(void)
{
    struct sched_param first = {.sched_priority = 99};
    return syscall(SYS_sched_setscheduler, 0, SCHED_FIFO | SCHED_RESET_ON_FORK, &first) == 0;
}

static void become_ordinary(void)
{
    struct sched_param ordinary = {.sched_priority = 0};
    syscall(SYS_sched_setscheduler, 0, SCHED_OTHER, &ordinary);
}

static bool stay_on(size_t processor)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(processor, &one);
    return sched_setaffinity(0, sizeof one, &one) == 0;
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
    if (stay_on(processor) && become_first()) {
        atomic_fetch_add(&watch->standing, 1);
        while (atomic_load(&watch->round) == round && monotonic_ns() < deadline)
            continue;
    }
    _exit(0);
}

/* A child for each processor but the agent's own. */
static bool muster(void)
{
    unsigned int wanted = (unsigned int)CPU_COUNT(&all) - 1;
    unsigned int round = atomic_fetch_add(&watch->round, 1) + 1;
    uint64_t patience = monotonic_ns() + MUSTER_NS;
    size_t here = (size_t)sched_getcpu();
    atomic_store(&watch->standing, 0);
    if (!stay_on(here))
        return false;
    for (size_t processor = 0; processor < CPU_SETSIZE; processor++)
        if (CPU_ISSET(processor, &all) && processor != here && child_fork() == 0)
            stand_on(processor, round);
    while (atomic_load(&watch->standing) < wanted && monotonic_ns() < patience)
        sched_yield();
    return atomic_load(&watch->standing) == wanted;
}

int guard_hold(uint32_t ttl_ms)
{
    if (!own_machine)
        return 0;
    deadline = monotonic_ns() + ttl_ms * NS_PER_MS;
    if ((watch == NULL || muster()) && become_first())
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
