/* The warm interpreter: a library that /usr/bin/python3 is started with, so that what serves and what is copied is that
 * very program, with nothing of a caller on its stack.
 *
 * It becomes Python, lets warm_python import and try out what programs use, and then only waits: for each request it
 * makes a copy of itself, which becomes that program, and tells the launcher how the program has ended. It runs no
 * Python of its own meanwhile, so every copy starts from the same state. Its one thread holds the interpreter before and
 * after a fork: there are no locks to repair, so none of what Python does about them in a fork of its own is done.
 *
 * The copies of one snapshot, in whatever sandbox, have the address space and the hash seed of this process. Generators of
 * random numbers are seeded anew in each, see warm_python/renewal.py.
 */
#include "program.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "leave.h"
#include "memory.h"
#include "watch.h"

#define FOLDER "/usr/local/lib/pandastack/python"
#define NAME "pandastack-warm"
#define BACKLOG 64
#define PROGRAMS_MAX 256

struct running {
    pid_t pid; /* 0: free */
    int socket;
};

static struct warmth warmth;
static struct running running[PROGRAMS_MAX];

static _Noreturn void give_up(const char *what)
{
    perror(what);
    exit(1);
}

static _Noreturn void give_up_python(void)
{
    PyErr_Print();
    exit(1);
}

static void become_python(void)
{
    static char name[] = "/usr/bin/python3";
    char *arguments[] = {name, NULL};
    PyConfig config;
    PyConfig_InitPythonConfig(&config);
    PyStatus status = PyConfig_SetBytesArgv(&config, 1, arguments);
    if (!PyStatus_Exception(status))
        status = Py_InitializeFromConfig(&config);
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);
    PyConfig_Clear(&config);
}

static PyObject *warm_up(void)
{
    PyObject *folder = PyUnicode_FromString(FOLDER);
    PyObject *module = NULL;
    if (folder != NULL && PyList_Insert(PySys_GetObject("path"), 0, folder) == 0)
        module = PyImport_ImportModule("warm_python");
    PyObject *program = module == NULL ? NULL : PyObject_CallMethod(module, "warm", "N", leave_function());
    PyObject *modules = program == NULL ? NULL : PyObject_CallMethod(program, "modules", NULL);
    if (modules == NULL)
        give_up_python();
    leave_alone(modules);
    Py_DECREF(modules);
    Py_DECREF(module);
    Py_DECREF(folder);
    return program;
}

static int listen_for_launchers(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = SOCKET_PATH};
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    mkdir(SOCKET_FOLDER, 0755);
    unlink(SOCKET_PATH);
    mode_t before = umask(0177);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(listener, BACKLOG) != 0)
        give_up(SOCKET_PATH);
    umask(before);
    return listener;
}

/* An interrupt would be noted by Python, here, and raised in whatever program is next. */
static int watch_children(void)
{
    sigset_t child, blocked;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    blocked = child;
    sigaddset(&blocked, SIGINT);
    sigprocmask(SIG_BLOCK, &blocked, &warmth.signals);
    int children = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
    if (children < 0)
        give_up("signalfd");
    return children;
}

static struct running *running_with(pid_t pid)
{
    for (struct running *one = running; one < running + PROGRAMS_MAX; one++)
        if (one->pid == pid)
            return one;
    return NULL;
}

/* Returns true in the child, which is to become the program. A launcher that finds its socket closed does without. */
static bool start(int socket)
{
    struct running *one = running_with(0);
    pid_t pid = one == NULL ? -1 : fork();
    if (pid == 0)
        return true;
    if (pid > 0)
        *one = (struct running){pid, socket};
    else
        close(socket);
    return false;
}

static void finish(pid_t pid, int status)
{
    struct running *one = running_with(pid);
    if (one == NULL)
        return;
    fcntl(one->socket, F_SETFL, 0); /* see live_with_launcher */
    send(one->socket, &status, sizeof status, MSG_NOSIGNAL | MSG_DONTWAIT);
    close(one->socket);
    one->pid = 0;
}

static void finish_ended(int children)
{
    struct signalfd_siginfo which;
    int status;
    while (read(children, &which, sizeof which) > 0)
        continue;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
        finish(pid, status);
}

/* Returns, in a child, the socket of the launcher that it is for. */
static int serve(int listener, int children)
{
    struct pollfd ends[2] = {{.fd = listener, .events = POLLIN}, {.fd = children, .events = POLLIN}};
    for (;;) {
        if (poll(ends, 2, -1) < 0 && errno != EINTR)
            give_up("poll");
        finish_ended(children);
        int socket = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (socket >= 0 && start(socket))
            return socket;
    }
}

static int warm_main(int count, char **arguments, char **environment)
{
    (void)count, (void)arguments, (void)environment;
    unsetenv("LD_PRELOAD");
    prctl(PR_SET_NAME, NAME, 0, 0, 0);
    warmth.identity = identity_take();
    warmth.complaints = fcntl(2, F_DUPFD_CLOEXEC, 3);
    if (warmth.identity == NULL)
        give_up("identity");
    become_python();
    warmth.program = warm_up();
    warmth.watch = watch_folders_of(warmth.program);
    memory_tidy();
    memory_gather();
    int children = watch_children();
    int socket = serve(listen_for_launchers(), children);
    return program_run(socket, &warmth);
}

typedef int (*main_function)(int count, char **arguments, char **environment);

/* What the start-up code of every program calls in the C library. Python's `main` is replaced by ours. */
__attribute__((visibility("default"))) int __libc_start_main(main_function main, int count, char **arguments,
                                                              void (*init)(void), void (*fini)(void),
                                                              void (*end)(void), void *stack);

int __libc_start_main(main_function main, int count, char **arguments, void (*init)(void), void (*fini)(void),
                      void (*end)(void), void *stack)
{
    (void)main;
    int (*original)(main_function, int, char **, void (*)(void), void (*)(void), void (*)(void), void *);
    *(void **)&original = dlsym(RTLD_NEXT, "__libc_start_main");
    return original(warm_main, count, arguments, init, fini, end, stack);
}
