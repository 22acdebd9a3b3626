#define _GNU_SOURCE
#include "threads.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "preload.h"

enum { MAX_THREADS = 128, STACK_BYTES = 8 << 20, IDLE_MS = 20, LOOK_US = 100, LAST_PATIENCE_MS = 50, MAX_POLLED = 64, TID_WITHIN = 512, CLEANUP_WITHIN = 256 };

/* What a wait has on the stack below our own frame stays as it is: ending the wait needs it. */
enum { RED_ZONE = 4096 };

struct thread {
    atomic_bool known;   /* this slot is in use */
    atomic_bool waiting; /* `place` is where it waits */
    bool revived;        /* in this process */
    bool locks;          /* its wait is over, but for its mutex that somebody else has */
    pthread_cond_t *condition; /* what it waits for; NULL for descriptors */
    pthread_mutex_t *mutex;
    const struct pollfd *polled; /* the descriptors that it waits for */
    nfds_t count;
    void *(*routine)(void *);
    void *argument;
    pthread_t self;
    pid_t *tid; /* where the C library keeps its number */
    void **cleanup; /* and what is to be done should it be ended now */
    sigset_t signals;
    char *memory; /* of its stack, which the next thread in this slot has too */
    char *stack;  /* what is below is free while it waits */
    jmp_buf place;
};

static struct thread threads[MAX_THREADS];
static bool watching; /* waits are noted */
static bool knowing;  /* so are threads that are made */
static bool hurried;  /* threads that wait for work end soon */
static bool sound = true; /* when this process was forked, or has forked, all of them were asleep */
static bool absent;   /* this is a copy that has none of them */
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
    watching = knowing = hurried = true;
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

void _pthread_cleanup_push(struct _pthread_cleanup_buffer *, void (*)(void *), void *);
void _pthread_cleanup_pop(struct _pthread_cleanup_buffer *, int);

static void **find_cleanup(void)
{
    struct _pthread_cleanup_buffer buffer;
    void **words = (void **)(uintptr_t)pthread_self();
    _pthread_cleanup_push(&buffer, free, NULL);
    int at = 0;
    while (at < CLEANUP_WITHIN && words[at] != &buffer)
        at++;
    _pthread_cleanup_pop(&buffer, 0);
    if (at == CLEANUP_WITHIN)
        abort();
    return words + at;
}

static void *run(void *argument)
{
    own = argument;
    own->self = pthread_self();
    own->tid = find_tid();
    own->cleanup = find_cleanup();
    pthread_sigmask(SIG_BLOCK, NULL, &own->signals);
    void *result = own->routine(own->argument);
    own->known = false;
    if (own->revived)
        syscall(SYS_exit, 0); /* the C library, which did not make it, has nothing to tidy up after it */
    return result;
}

static struct thread *new_thread(void *(*routine)(void *), void *argument)
{
    for (struct thread *each = threads; each < threads + MAX_THREADS; each++) {
        if (atomic_exchange(&each->known, true))
            continue;
        if (each->tid && __atomic_load_n(each->tid, __ATOMIC_ACQUIRE) != 0) {
            each->known = false; /* its last one is about to end, and stands on the stack */
            continue;
        }
        each->waiting = each->revived = false;
        each->routine = routine;
        each->argument = argument;
        return each;
    }
    return NULL;
}

/* Ours: the C library reuses those of its own in a child, as nobody is there who stands on them. */
static bool give_stack(struct thread *thread, const pthread_attr_t *attributes)
{
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE;
    if (!thread->memory) {
        void *memory = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, flags, -1, 0);
        if (memory == MAP_FAILED)
            return false;
        thread->memory = memory;
    }
    return pthread_attr_setstack((pthread_attr_t *)(uintptr_t)attributes, thread->memory, STACK_BYTES) == 0;
}

EXPORT int pthread_create(pthread_t *made, const pthread_attr_t *attributes, void *(*routine)(void *), void *argument)
{
    struct thread *thread = knowing && attributes ? new_thread(routine, argument) : NULL;
    if (!thread)
        return real_create(made, attributes, routine, argument);
    int error = give_stack(thread, attributes) ? real_create(made, attributes, run, thread) : EAGAIN;
    if (error)
        thread->known = false;
    return error;
}

/* In a child, on the old stack: the wait ends here, as waits may at any time. */
static void come_back(void)
{
    pthread_sigmask(SIG_SETMASK, &own->signals, NULL);
    own->waiting = false;
    own->revived = true;
}

/* The jump out of a wait has the C library end it as that of a cancelled thread: it takes the mutex again. Where the wait
 * was over, nothing does.
 */
static int come_back_with(pthread_mutex_t *mutex, int result)
{
    come_back();
    if (result == 0)
        rcu_register_thread(); /* those that wait for a while are workers of the pool, which RCU does not know */
    if (own->locks)
        return pthread_mutex_lock(mutex);
    return mutex->__data.__owner == gettid() ? result : EPERM;
}

static void note_wait(pthread_cond_t *condition, pthread_mutex_t *mutex)
{
    own->condition = condition;
    own->mutex = mutex;
    own->waiting = true;
}

EXPORT __attribute__((noinline)) int pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex)
{
    if (!watching || !own)
        return real_wait(condition, mutex);
    own->stack = (char *)__builtin_frame_address(0) - RED_ZONE;
    if (_setjmp(own->place) != 0)
        return come_back_with(mutex, 0);
    note_wait(condition, mutex);
    int result = real_wait(condition, mutex);
    own->waiting = false;
    return result;
}

/* Workers end when they have waited for some time: those of a server need not wait so long, and its children have none. */
static int wait_briefly(pthread_cond_t *condition, pthread_mutex_t *mutex)
{
    struct timespec soon;
    clock_gettime(CLOCK_MONOTONIC, &soon);
    soon.tv_nsec += IDLE_MS * 1000000L;
    soon.tv_sec += soon.tv_nsec / 1000000000L;
    soon.tv_nsec %= 1000000000L;
    return pthread_cond_clockwait(condition, mutex, CLOCK_MONOTONIC, &soon);
}

EXPORT __attribute__((noinline)) int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex,
                                                            const struct timespec *until)
{
    if (!watching || !own)
        return real_timedwait(condition, mutex, until);
    if (hurried)
        return wait_briefly(condition, mutex);
    own->stack = (char *)__builtin_frame_address(0) - RED_ZONE;
    if (_setjmp(own->place) != 0)
        return come_back_with(mutex, ETIMEDOUT);
    note_wait(condition, mutex);
    int result = real_timedwait(condition, mutex, until);
    own->waiting = false;
    return result;
}

EXPORT __attribute__((noinline)) int poll(struct pollfd *polled, nfds_t count, int timeout)
{
    if (!watching || !own)
        return real_poll(polled, count, timeout);
    own->stack = (char *)__builtin_frame_address(0) - RED_ZONE;
    if (_setjmp(own->place) != 0) {
        come_back();
        rcu_register_thread();
        return 0;
    }
    own->polled = polled;
    own->count = count;
    note_wait(NULL, NULL);
    int result = real_poll(polled, count, timeout);
    own->waiting = false;
    return result;
}

/* The system call that a thread is blocked in, and its first argument. False when it runs. */
static bool find_call(const struct thread *thread, long *number, uintptr_t *argument)
{
    char path[64], line[256] = {0};
    snprintf(path, sizeof path, "/proc/self/task/%d/syscall", *thread->tid);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return false;
    ssize_t size = read(file, line, sizeof line - 1);
    close(file);
    return size > 0 && sscanf(line, "%ld %" SCNxPTR, number, argument) == 2;
}

/* Whether what it waits for has come: it is asleep still, and will not be in a moment. */
static bool is_due(const struct thread *thread)
{
    struct pollfd look[MAX_POLLED];
    if (thread->count > MAX_POLLED)
        return true;
    memcpy(look, thread->polled, thread->count * sizeof *look);
    return real_poll(look, thread->count, 0) != 0;
}

/* Whether it is where its noted wait can be ended: asleep in it, or behind it before its mutex. One that is on its way in or
 * out is not: the C library has begun something there that only it can end.
 */
static bool is_asleep(struct thread *thread)
{
    long number;
    uintptr_t argument;
    if (!thread->waiting || !find_call(thread, &number, &argument))
        return false;
    if (!thread->condition)
        return (number == SYS_poll || number == SYS_ppoll) && !is_due(thread);
    uintptr_t condition = (uintptr_t)thread->condition;
    thread->locks = argument == (uintptr_t)&thread->mutex->__data.__lock;
    return number == SYS_futex &&
           (thread->locks || (argument >= condition && argument < condition + sizeof *thread->condition));
}

/* In a copy: whether its memory has this thread where it was seen. One that something has woken since has gone on, and what
 * would end its wait is gone.
 */
static bool was_asleep(const struct thread *thread)
{
    if (!thread->waiting || !thread->condition)
        return thread->waiting;
    if (thread->locks)
        return thread->mutex->__data.__owner != *thread->tid;
    char *cleanup = *thread->cleanup;
    return cleanup >= thread->stack && cleanup < thread->stack + RED_ZONE;
}

static bool all_wait(void)
{
    for (struct thread *each = threads; each < threads + MAX_THREADS; each++)
        if (each->known && !is_asleep(each))
            return false;
    return true;
}

/* The last thing before a fork: QEMU has locked RCU by then, whose thread wakes others at any time. */
static void look_again(void)
{
    if (watching && !absent)
        sound = threads_stand_still(LAST_PATIENCE_MS);
}

/* The first to be registered is the last to be called. */
__attribute__((constructor)) static void look_before_forks(void)
{
    pthread_atfork(look_again, NULL, NULL);
}

bool threads_are_sound(void)
{
    return sound;
}

bool threads_left_behind(void)
{
    absent = true;
    for (struct thread *each = threads; each < threads + MAX_THREADS; each++)
        if (each->known && !was_asleep(each))
            return false;
    return true;
}

bool threads_stand_still(int milliseconds)
{
    if (absent)
        return true;
    for (int turns = milliseconds * (1000 / LOOK_US); !all_wait() && turns > 0; turns--)
        usleep(LOOK_US);
    knowing = false; /* a child makes some of its own when it is forked */
    return all_wait();
}

void threads_go_on(void)
{
    knowing = true;
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
    knowing = true;
    hurried = absent = false;
    for (struct thread *each = threads; each < threads + MAX_THREADS; each++)
        if (each->known && !(each->waiting && revive(each)))
            return false;
    return true;
}
