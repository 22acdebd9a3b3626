/* A fork server inside QEMU, preloaded into it.
 *
 * Nearly all that a restore of an emulated machine takes is QEMU's own start, and then the translation of the guest's code,
 * which begins anew in every process. This library lets one process do both for all machines of a template. It is restored
 * from the snapshot like any machine, does what every machine does first, and is told to stand still. From then on it only
 * forks. A child has the guest's memory, its devices and its translated code as they were, shared until it writes to them;
 * it takes its own directory, descriptors and name, confines itself and lets its guest go on.
 *
 * A machine that is such a child can be copied while it runs: the copy stands still where the machine was, and forks as the
 * first one does. The machine has waited no longer than the fork took.
 *
 * PANDASTACK_ZYGOTE in the environment holds the numbers of five descriptors: where orders come from (see orders.h), the
 * three sockets where this process listens, and its network device's other end, which are a child's own under the same numbers. Without it the library does
 * nothing.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <fcntl.h>

#include "apart.h"
#include "confinement.h"
#include "descriptors.h"
#include "guest.h"
#include "load.h"
#include "orders.h"
#include "preload.h"
#include "process.h"
#include "spare.h"
#include "threads.h"

enum { MAX_POLLED = 1024, PATIENCE_MS = 3000, COPY_PATIENCE_MS = 5, LAST_PATIENCE_MS = 50, FIRST_MS = 100, IDLE_MS = 10 };

/* The exit status of a child that could not become what it was to be. */
enum { NO_HOME = 111, NO_DESCRIPTORS, NO_CONFINEMENT, NO_THREADS, NO_USER };

/* Which of a machine's own descriptors: the sockets where it listens, and its network device's other end. */
enum { MONITOR, CONNECTION, ORDERS, NETWORK };

static int channel = -1; /* as long as this is a server */
static bool holds;       /* its guest is not to run yet */
static bool moves;       /* its machines have users: each is left alone in the namespaces where it was forked */
static bool moved_on;    /* nobody else is in its namespaces */
static bool is_copy;     /* of a machine */
static unsigned next;    /* the user of what is forked */
static int own[OWN];
static bool serves; /* or has ever served: there is something to listen for */
static pthread_t main_thread;

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
    if (!confinement_is_loaded())
        setsid(); /* later it is one of the calls that are denied */
    if (!order_is_for_itself(order))
        tell(channel, 'F', getpid());
    close(channel);
    close(signals);
    channel = -1;
    process_ignores_children();
    must(fchdir(order->fds[HOME]) == 0, NO_HOME);
    for (int i = 0; i < OWN; i++)
        dup3(order->fds[i], own[i], O_CLOEXEC);
    order_close(order);
    must(process_becomes(order_user(order)), NO_USER);
    must(descriptors_renew(own[CONNECTION]), NO_DESCRIPTORS);
    process_rename(order_name(order));
    holds = strcmp(order_how(order), "hold") == 0;
    if (!holds)
        descriptors_await_first(FIRST_MS);
    sigprocmask(SIG_SETMASK, mask, NULL);
    must(confinement_load(), NO_CONFINEMENT);
    must(threads_are_sound() && threads_revive(), NO_THREADS);
}

static void report_ended(int signals)
{
    struct signalfd_siginfo ignored;
    int status;
    pid_t pid;
    if (read(signals, &ignored, sizeof ignored) < 0 && errno != EAGAIN)
        _exit(0);
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        if (!spare_was(pid))
            tell_ended(channel, pid, status);
}

/* Those that a machine is in are its own alone: it is forked in the ones that its server has just made, and leaves. Before the
 * next one is forked. A copy of a machine may not, and need not: it has its machine's.
 */
static bool move_on(void)
{
    bool must = moves && !moved_on && geteuid() == 0;
    if (must)
        moved_on = process_moves_on();
    return !must || moved_on;
}

/* The first handler that is called in a child, while it has one thread. */
static void in_child(void)
{
    spare_in_child();
    if (spare_order()->length > 0)
        next = order_user(spare_order());
    process_becomes_in_child(next);
    apart_in_child();
}

/* One child ahead, if there is none. True in that child, which has its order and QEMU's lock. */
static bool fork_spare(void)
{
    if (is_copy || !moves || spare_waits())
        return false;
    guest_lock();
    if (move_on() && threads_stand_still(0) && spare_fork() == 0)
        return true;
    guest_unlock();
    moved_on = false;
    return false;
}

/* Under QEMU's lock, which its RCU thread takes too and could not give back in a child. True in the child, which has it. One
 * that nobody else is to be forked of needs no child.
 */
static bool fork_one(const struct order *order)
{
    if (order_is_fork(order) && !order_is_for_itself(order) && spare_takes(order)) {
        order_close(order);
        return false;
    }
    guest_lock();
    if (order_is_for_itself(order)) {
        tell(channel, 'F', getpid());
        return true;
    }
    moves |= order_user(order) > 0;
    next = order_user(order);
    errno = EINVAL;
    pid_t pid = order_is_fork(order) && move_on() && threads_stand_still(0) ? fork() : -1;
    if (pid == 0)
        return true;
    int error = errno;
    guest_unlock();
    order_close(order);
    if (pid < 0)
        tell(channel, 'E', error);
    moved_on = false;
    return false;
}

static void save(const struct order *order)
{
    guest_lock();
    bool saved = guest_save_devices(order_word(order, 1));
    guest_unlock();
    tell(channel, saved ? 'V' : 'E', saved ? 0 : EIO);
}

static int watch_children(sigset_t *before)
{
    sigset_t child_ended;
    sigemptyset(&child_ended);
    sigaddset(&child_ended, SIGCHLD);
    process_asks_children();
    sigprocmask(SIG_BLOCK, &child_ended, before);
    return signalfd(-1, &child_ended, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* Returns in each child; the server itself never does. */
static void serve(void)
{
    static struct order order;
    sigset_t before;
    int signals = watch_children(&before);
    bool is_idle = true;
    for (;;) {
        struct pollfd watched[] = {{channel, POLLIN, 0}, {signals, POLLIN, 0}};
        int ready = poll(watched, 2, is_idle ? -1 : IDLE_MS);
        if (ready < 0 && errno != EINTR)
            _exit(1);
        is_idle = ready == 0;
        if (is_idle && fork_spare()) {
            become(spare_order(), signals, &before);
            return;
        }
        if (watched[1].revents)
            report_ended(signals);
        if (!watched[0].revents)
            continue;
        if (!order_take(channel, &order)) {
            spare_end();
            _exit(0);
        }
        if (order_is_save(&order)) {
            save(&order);
        } else if (fork_one(&order)) {
            become(&order, signals, &before);
            return;
        }
    }
}

/* What is still to be freed and closed is, before it is noted and shared. */
static bool stand_still(void)
{
    guest_lock();
    guest_stop();
    guest_settle();
    guest_unlock();
    return threads_stand_still(PATIENCE_MS) && descriptors_note(channel);
}

/* Of all that the guest has done the translated code is left. */
static void go_back(const struct order *order)
{
    guest_lock();
    guest_stop();
    bool is_back = load_base(order_word(order, 1), order_word(order, 2));
    if (is_back)
        guest_continue();
    guest_unlock();
    tell(channel, is_back ? 'B' : 'E', is_back ? 0 : EINVAL);
}

/* In the main loop, where it has nothing to do. Returns in each child, whose guest runs. */
static void obey(void)
{
    static struct order order;
    order_receive(channel, &order);
    if (order_is_go_back(&order)) {
        go_back(&order);
        return;
    }
    if (!order_is_stand_still(&order) || !stand_still()) {
        order_close(&order);
        tell(channel, 'E', EINVAL);
        return;
    }
    tell(channel, 'S', 0);
    serve();
    if (!holds)
        guest_continue();
    guest_unlock();
}

/* In the copy: it has nothing of the machine's that others could notice, and serves. Returns in each child. */
static void become_server(const struct order *order, int connection)
{
    process_open(false);
    is_copy = true;
    if (!threads_are_sound() || !threads_left_behind())
        _exit(NO_THREADS);
    channel = dup(order->fds[0]);
    fcntl(channel, F_SETFD, FD_CLOEXEC);
    order_close(order);
    close(connection);
    must(channel >= 0 && descriptors_note(channel) && descriptors_let_go(own, OWN), NO_DESCRIPTORS);
    process_rename(order_word(order, 3));
    guest_unlock();
    tell(channel, 'S', 0);
    serve();
    if (!holds)
        guest_continue();
}

static long microseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000L + now.tv_nsec / 1000;
}

/* The machine stands still from the stop to the end of the fork. Returns the copy's number in the machine, 0 in a child of
 * the copy, the negative number of an error when there is none.
 */
static pid_t copy(const struct order *order, int connection, long *stood_still)
{
    if (!descriptors_note(connection))
        return -ENOTCONN; /* looked at again in the copy: the new layer changes some */
    bool ran = guest_runs();
    long begun = microseconds();
    if (ran)
        guest_stop();
    errno = EBUSY;
    pid_t pid = -1;
    if (threads_stand_still(COPY_PATIENCE_MS) && guest_add_layer(order_word(order, 1), order_word(order, 2))) {
        errno = EAGAIN; /* the layer may have woken some, which wait for our lock by now */
        pid = threads_stand_still(LAST_PATIENCE_MS) ? fork() : -1;
    }
    if (pid == 0) {
        become_server(order, connection);
        return 0;
    }
    int error = errno;
    if (pid > 0 && !threads_are_sound()) {
        pid = -1;
        error = EAGAIN;
    }
    threads_go_on();
    if (ran && !(pid > 0 && strcmp(order_word(order, 4), "hold") == 0))
        guest_continue();
    *stood_still = microseconds() - begun;
    return pid > 0 ? pid : -error;
}

/* In the main loop of a machine; in the copy and its children they return too, without telling anybody. */
static bool obey_copy(const struct order *order, int connection)
{
    long stood_still = 0;
    pid_t pid = copy(order, connection, &stood_still);
    if (pid == 0)
        return false;
    if (pid < 0)
        tell_refused(connection, -pid);
    else
        tell_done(connection, 'C', pid, stood_still);
    return true;
}

static void obey_load(const struct order *order, int connection)
{
    long begun = microseconds();
    if (guest_runs() || !load_snapshot(order_word(order, 1), order->fds[0], order_word(order, 2))) {
        tell_refused(connection, EINVAL);
        return;
    }
    guest_continue();
    tell_done(connection, 'L', 0, microseconds() - begun);
}

static void obey_simple(char kind, void (*what)(void), int connection)
{
    long begun = microseconds();
    what();
    tell_done(connection, kind, 0, microseconds() - begun);
}

/* In the main loop of a machine: somebody has connected to give it an order. */
static void obey_as_machine(void)
{
    static struct order order;
    int connection = accept4(own[ORDERS], NULL, NULL, SOCK_CLOEXEC);
    const struct timeval patience = {0, 100000};
    bool is_ours = true;
    if (connection < 0)
        return;
    setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    bool taken = order_take(connection, &order);
    guest_lock();
    process_open(taken && (order_is_copy(&order) || order_is_load(&order)));
    if (taken && order_is_copy(&order))
        is_ours = obey_copy(&order, connection);
    else if (taken && order_is_load(&order))
        obey_load(&order, connection);
    else if (taken && order_is_pause(&order))
        obey_simple('P', guest_stop, connection);
    else if (taken && order_is_run(&order))
        obey_simple('R', guest_continue, connection);
    else
        tell_refused(connection, EINVAL);
    guest_unlock();
    process_open(false);
    if (!is_ours)
        return;
    order_close(&order);
    close(connection);
}

int ppoll(struct pollfd *polled, nfds_t count, const struct timespec *timeout, const sigset_t *mask);

/* Where QEMU's main loop waits, without its lock: a server waits for its orders too, and a machine for its own. */
EXPORT int ppoll(struct pollfd *polled, nfds_t count, const struct timespec *timeout, const sigset_t *mask)
{
    static int (*original)(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *);
    struct pollfd all[MAX_POLLED];
    if (!original)
        *(void **)&original = dlsym(RTLD_NEXT, "ppoll");
    if (!serves || count >= MAX_POLLED || !pthread_equal(pthread_self(), main_thread) || guest_is_locked())
        return original(polled, count, timeout, mask);
    memcpy(all, polled, count * sizeof *polled);
    all[count] = (struct pollfd){channel >= 0 ? channel : own[ORDERS], POLLIN, 0};
    int ready = original(all, count + 1, timeout, mask);
    memcpy(polled, all, count * sizeof *polled);
    if (ready <= 0 || !all[count].revents)
        return ready;
    if (channel >= 0)
        obey();
    else
        obey_as_machine();
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

/* glibc hands the program's arguments to constructors. */
__attribute__((constructor)) static void begin(int argc, char **argv, char **envp)
{
    (void)envp;
    const char *numbers = getenv("PANDASTACK_ZYGOTE");
    if (!numbers)
        return;
    int *at = own;
    if (!guest_find() || sscanf(numbers, "%d %d %d %d %d", &channel, &at[MONITOR], &at[CONNECTION], &at[ORDERS], &at[NETWORK]) != 5) {
        fputs("this QEMU does not export what a fork server needs\n", stderr);
        _exit(1);
    }
    serves = true;
    process_arguments(argc, argv);
    main_thread = pthread_self();
    unsetenv("PANDASTACK_ZYGOTE");
    unsetenv("LD_PRELOAD");
    confinement_put_off();
    process_gains_nothing();
    apart_from_now_on();
    pthread_atfork(NULL, NULL, in_child); /* before QEMU's own are there, which run in the same order */
}
