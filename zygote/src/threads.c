#define _GNU_SOURCE
#include "threads.h"

#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "preload.h"

enum { MAX_THREADS = 64, STACK_BYTES = 8 << 20, IDLE_MS = 20, TID_WITHIN = 512 };

/* What a wait has on the stack below our own frame stays as it is: ending the wait needs it. */
enum { RED_ZONE = 4096 };

struct thread {
    atomic_bool known;   /* this slot is in use */
    atomic_bool waiting; /* `place` is where it waits */
    bool revived;        /* in this process */
    void *(*routine)(void *);
    void *argument;
    pthread_t self;
    pid_t *tid; /* where the C library keeps its number */
    sigset_t signals;
    char *stack; /* what is below is free while it waits */
    jmp_buf place;
};

static struct thread threads[MAX_THREADS];
static bool watching; /* waits are noted */
static bool knowing;  /* so are threads that are made */
static __thread struct thread *own;

static int (*real_create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
static int (*real_wait)(pthread_cond_t *, pthread_mutex_t *);
static int (*real_timedwait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
static int (*real_poll)(struct pollfd *, nfds_t, int);
static void (*rcu_register_thread)(void); /* of QEMU, whose fork handlers forget all threads but one */

__attribute__((constructor)) static void find_originals(void)
{
    *(void **)&real_create = dlsym(RTLD_NEXT, "pthread_create");
    *(void **)&real_wait = dlvsym(RTLD_NEXT, "pthread_cond_wait", "GLIBC_2.3.2");
    *(void **)&real_timedwait = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    *(void **)&real_poll = dlsym(RTLD_NEXT, "poll");
    *(void **)&rcu_register_thread = dlsym(RTLD_DEFAULT, "rcu_register_thread");
}

void threads_watch(void)
{
    watching = knowing = true;
}

/* The C library keeps a thread's number in its descriptor, which begins where `pthread_self` points. */
static pid_t *find_tid(void)
{
    pid_t number = gettid();
    pid_t *words = (pid_t *)(uintptr_t)pthread_self();
    for (int at = 0; at < TID_WITHIN; at++)
        if (words[at] == number)
            return words + at;
    abort();
}

static void *run(void *argument)
{
    own = argument;
    own->self = pthread_self();
    own->tid = find_tid();
    pthread_sigmask(SIG_BLOCK, NULL, &own->signals);
    void *result = own->routine(own->argument);
    if (own->revived)
        syscall(SYS_exit, 0); /* the C library, which did not make it, has nothing to tidy up after it */
    own->known = false;
    return result;
}

static struct thread *new_thread(void *(*routine)(void *), void *argument)
{
    for (struct thread *each = threads; each < threads + MAX_THREADS; each++) {
        if (atomic_exchange(&each->known, true))
            continue;
        each->waiting = false;
        each->routine = routine;
        each->argument = argument;
        return each;
    }
    return NULL;
}

/* Ours: the C library reuses those of its own in a child, as nobody is there who stands on them. */
static bool give_stack(const pthread_attr_t *attributes)
{
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE;
    void *stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, flags, -1, 0);
    return stack != MAP_FAILED && pthread_attr_setstack((pthread_attr_t *)(uintptr_t)attributes, stack, STACK_BYTES) == 0;
}

EXPORT int pthread_create(pthread_t *made, const pthread_attr_t *attributes, void *(*routine)(void *), void *argument)
{
    struct thread *thread = knowing && attributes ? new_thread(routine, argument) : NULL;
    if (!thread)
        return real_create(made, attributes, routine, argument);
    if (!give_stack(attributes))
        return EAGAIN;
    return real_create(made, attributes, run, thread);
}

/* In a child, on the old stack: the wait ends here, as waits may at any time. */
static void come_back(void)
{
    pthread_sigmask(SIG_SETMASK, &own->signals, NULL);
    own->waiting = false;
    own->revived = true;
    rcu_register_thread();
}

/* The jump out of a wait has the C library end it as that of a cancelled thread: it takes the mutex again. */
EXPORT __attribute__((noinline)) int pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex)
{
    if (!watching || !own)
        return real_wait(condition, mutex);
    own->stack = (char *)__builtin_frame_address(0) - RED_ZONE;
    if (_setjmp(own->place) != 0) {
        come_back();
        return mutex->__data.__owner == gettid() ? 0 : EPERM;
    }
    own->waiting = true;
    int result = real_wait(condition, mutex);
    own->waiting = false;
    return result;
}

/* Workers end when they have waited for some time: here they need not wait so long. */
EXPORT int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *until)
{
    struct timespec soon;
    if (!watching || !own)
        return real_timedwait(condition, mutex, until);
    clock_gettime(CLOCK_MONOTONIC, &soon);
    soon.tv_nsec += IDLE_MS * 1000000L;
    soon.tv_sec += soon.tv_nsec / 1000000000L;
    soon.tv_nsec %= 1000000000L;
    return pthread_cond_clockwait(condition, mutex, CLOCK_MONOTONIC, &soon);
}

EXPORT __attribute__((noinline)) int poll(struct pollfd *polled, nfds_t count, int timeout)
{
    if (!watching || !own)
        return real_poll(polled, count, timeout);
    own->stack = (char *)__builtin_frame_address(0) - RED_ZONE;
    if (_setjmp(own->place) != 0) {
        come_back();
        return 0;
    }
    own->waiting = true;
    int result = real_poll(polled, count, timeout);
    own->waiting = false;
    return result;
}

static bool all_wait(void)
{
    for (struct thread *each = threads; each < threads + MAX_THREADS; each++)
        if (each->known && !each->waiting)
            return false;
    return true;
}

bool threads_stand_still(int milliseconds)
{
    for (; !all_wait() && milliseconds > 0; milliseconds--)
        usleep(1000);
    knowing = false; /* a child makes some of its own when it is forked */
    return all_wait();
}

static int go_on(void *argument)
{
    struct thread *thread = argument;
    struct rseq *area = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
    if (__rseq_size > 0) {
        area->cpu_id = (uint32_t)RSEQ_CPU_ID_UNINITIALIZED;
        syscall(SYS_rseq, area, sizeof *area, 0, RSEQ_SIG);
    }
    longjmp(thread->place, 1);
}

static bool revive(struct thread *thread)
{
    const int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS |
                      CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID;
    return clone(go_on, thread->stack, flags, thread, thread->tid, (void *)thread->self, thread->tid) > 0;
}

bool threads_revive(void)
{
    watching = false;
    for (struct thread *each = threads; each < threads + MAX_THREADS; each++)
        if (each->known && !(each->waiting && revive(each)))
            return false;
    return true;
}
