/* A fork server inside QEMU, preloaded into it.
 *
 * Nearly all that a restore of an emulated machine takes is QEMU's own start, and then the translation of the guest's code,
 * which begins anew in every process. This library lets one process do both for all machines of a template. It is restored
 * from the snapshot like any machine, does what every machine does first, and is told to stand still. From then on it only
 * forks. A child has the guest's memory, its devices and its translated code as they were, shared until it writes to them;
 * it takes its own directory, descriptors and name, confines itself and lets its guest go on.
 *
 * PANDASTACK_ZYGOTE in the environment holds the numbers of three descriptors: where orders come from (see orders.h), and
 * the two sockets where this process listens, which are a child's own under the same numbers. Without it the library does
 * nothing.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "confinement.h"
#include "descriptors.h"
#include "orders.h"
#include "preload.h"
#include "threads.h"

enum { MAX_POLLED = 1024, PATIENCE_MS = 3000 };

/* The exit status of a child that could not become a machine. */
enum { NO_HOME = 111, NO_DESCRIPTORS, NO_CONFINEMENT, NO_THREADS };

/* What the command line holds in place of the machine's name; children write theirs over it, so that ps tells them apart. */
static const char PLACEHOLDER[] = "pandastack-################################################################";

/* Of QEMU: its big lock, under which the guest stops and goes on, and its deferred frees. */
static void (*lock)(const char *file, int line);
static void (*unlock)(void);
static void (*stop_guest)(void **error);
static void (*continue_guest)(void **error);
static void (*drain_call_rcu)(void);
static void (*rcu_enable_atfork)(void);

static int channel = -1; /* as long as this is a server */
static int listeners[LISTENERS];
static pthread_t main_thread;
static int own_argc;
static char **own_argv;

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

static void must(bool done, int status)
{
    if (!done) {
        perror("a forked machine cannot go on");
        _exit(status);
    }
}

/* In the child: become the machine that was asked for. Its threads come last: until then it is confined as one. */
static void become(const struct order *order, int signals, const sigset_t *mask)
{
    setsid();
    close(channel);
    close(signals);
    channel = -1;
    must(chdir(order_home(order)) == 0, NO_HOME);
    for (int i = 0; i < LISTENERS; i++)
        dup3(order->fds[i], listeners[i], O_CLOEXEC);
    order_close(order);
    must(descriptors_renew(listeners[1]), NO_DESCRIPTORS);
    rename_self(order_name(order));
    sigprocmask(SIG_SETMASK, mask, NULL);
    must(confinement_load(), NO_CONFINEMENT);
    must(threads_revive(), NO_THREADS);
}

static void report_ended(int signals)
{
    struct signalfd_siginfo ignored;
    int status;
    pid_t pid;
    if (read(signals, &ignored, sizeof ignored) < 0 && errno != EAGAIN)
        _exit(0);
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        tell_ended(channel, pid, status);
}

/* Under QEMU's lock, which its RCU thread takes too and could not give back in a child. True in the child, which has it. */
static bool fork_one(const struct order *order)
{
    lock(__FILE__, __LINE__);
    errno = EINVAL;
    pid_t pid = order_is_fork(order) && threads_stand_still(0) ? fork() : -1;
    if (pid == 0)
        return true;
    int error = errno;
    unlock();
    order_close(order);
    tell(channel, pid < 0 ? 'E' : 'F', pid < 0 ? error : pid);
    return false;
}

static int watch_children(sigset_t *before)
{
    sigset_t child_ended;
    sigemptyset(&child_ended);
    sigaddset(&child_ended, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child_ended, before);
    return signalfd(-1, &child_ended, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* Returns in each child; the server itself never does. */
static void serve(void)
{
    static struct order order;
    sigset_t before;
    int signals = watch_children(&before);
    for (;;) {
        struct pollfd watched[] = {{channel, POLLIN, 0}, {signals, POLLIN, 0}};
        if (poll(watched, 2, -1) < 0 && errno != EINTR)
            _exit(1);
        if (watched[1].revents)
            report_ended(signals);
        if (!watched[0].revents)
            continue;
        order_receive(channel, &order);
        if (fork_one(&order)) {
            become(&order, signals, &before);
            return;
        }
    }
}

/* What is still to be freed and closed is, before it is noted and shared. */
static bool stand_still(void)
{
    lock(__FILE__, __LINE__);
    stop_guest(NULL);
    drain_call_rcu();
    rcu_enable_atfork();
    unlock();
    return threads_stand_still(PATIENCE_MS) && descriptors_note(channel);
}

/* In the main loop, where it has nothing to do. Returns in each child. */
static void obey(void)
{
    static struct order order;
    order_receive(channel, &order);
    if (!order_is_stand_still(&order) || !stand_still()) {
        order_close(&order);
        tell(channel, 'E', EINVAL);
        return;
    }
    tell(channel, 'S', 0);
    serve();
    continue_guest(NULL);
    unlock();
}

int ppoll(struct pollfd *polled, nfds_t count, const struct timespec *timeout, const sigset_t *mask);

/* Where QEMU's main loop waits: a server waits for its orders too. */
EXPORT int ppoll(struct pollfd *polled, nfds_t count, const struct timespec *timeout, const sigset_t *mask)
{
    static int (*original)(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *);
    struct pollfd all[MAX_POLLED];
    if (!original)
        *(void **)&original = dlsym(RTLD_NEXT, "ppoll");
    if (channel < 0 || count >= MAX_POLLED || !pthread_equal(pthread_self(), main_thread))
        return original(polled, count, timeout, mask);
    memcpy(all, polled, count * sizeof *polled);
    all[count] = (struct pollfd){channel, POLLIN, 0};
    int ready = original(all, count + 1, timeout, mask);
    memcpy(polled, all, count * sizeof *polled);
    if (ready <= 0 || !all[count].revents)
        return ready;
    obey();
    for (nfds_t i = 0; i < count; i++)
        polled[i].revents = 0; /* what there is besides is still there at the next look */
    return 0;
}

void *seccomp_init(unsigned int action);

/* libseccomp's own, which QEMU calls once: when it has read its options and made no thread that a machine has. */
EXPORT void *seccomp_init(unsigned int action)
{
    void *(*original)(unsigned int) = (void *(*)(unsigned int))dlsym(RTLD_NEXT, "seccomp_init");
    if (channel >= 0)
        threads_watch();
    return original(action);
}

static bool find_qemu(void)
{
    *(void **)&lock = dlsym(RTLD_DEFAULT, "bql_lock_impl");
    *(void **)&unlock = dlsym(RTLD_DEFAULT, "bql_unlock");
    *(void **)&stop_guest = dlsym(RTLD_DEFAULT, "qmp_stop");
    *(void **)&continue_guest = dlsym(RTLD_DEFAULT, "qmp_cont");
    *(void **)&drain_call_rcu = dlsym(RTLD_DEFAULT, "drain_call_rcu");
    *(void **)&rcu_enable_atfork = dlsym(RTLD_DEFAULT, "rcu_enable_atfork");
    return lock && unlock && stop_guest && continue_guest && drain_call_rcu && rcu_enable_atfork;
}

/* glibc hands the program's arguments to constructors. */
__attribute__((constructor)) static void begin(int argc, char **argv, char **envp)
{
    (void)envp;
    const char *numbers = getenv("PANDASTACK_ZYGOTE");
    if (!numbers)
        return;
    if (!find_qemu() || sscanf(numbers, "%d %d %d", &channel, &listeners[0], &listeners[1]) != 3) {
        fputs("this QEMU does not export what a fork server needs\n", stderr);
        _exit(1);
    }
    own_argc = argc;
    own_argv = argv;
    main_thread = pthread_self();
    unsetenv("PANDASTACK_ZYGOTE");
    unsetenv("LD_PRELOAD");
    confinement_put_off();
}
