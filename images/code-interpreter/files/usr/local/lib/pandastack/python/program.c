#include "program.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "run.h"
#include "watch.h"

#define STRINGS_MAX (8u << 20)

struct program {
    struct request request;
    int descriptors[DESCRIPTORS];
    char *identity;
    char *arguments;
    char *environment;
};

static bool receive(int socket, struct program *program)
{
    struct request *request = &program->request;
    if (!request_receive(socket, request, program->descriptors))
        return false;
    size_t size = (size_t)request->identity_size + request->arguments_size + request->environment_size;
    program->identity = size <= STRINGS_MAX ? malloc(size + 1) : NULL;
    if (program->identity == NULL || !stream_receive(socket, program->identity, size))
        return false;
    program->arguments = program->identity + request->identity_size;
    program->environment = program->arguments + request->arguments_size;
    program->identity[size] = '\0';
    return true;
}

/* The strings of a block, which they go on to live in, and NULL. */
static char **strings_of(char *block, size_t size)
{
    size_t count = 0;
    for (size_t at = 0; at < size; at++)
        count += block[at] == '\0';
    char **strings = calloc(count + 1, sizeof *strings);
    for (size_t at = 0; strings != NULL && at < count; at++, block += strlen(block) + 1)
        strings[at] = block;
    return strings;
}

/* A session and a group of its own: those of the launcher cannot be joined from here. */
static bool take_place(const struct program *program)
{
    char **environment = strings_of(program->environment, program->request.environment_size);
    if (environment == NULL || setsid() < 0 || fchdir(program->descriptors[DESCRIPTOR_FOLDER]) != 0)
        return false;
    for (int fd = 0; fd < 3; fd++)
        if (dup2(program->descriptors[fd], fd) != fd)
            return false;
    umask(program->request.mask);
    environ = environment;
    return true;
}

/* For who reads what the server has written: the program runs all the same, only slower. */
static bool complain(const struct warmth *warmth, const char *why)
{
    dprintf(warmth->complaints, "runs cold: %s\n", why == NULL ? "" : why);
    return false;
}

static bool is_adopted(const struct program *program, const struct warmth *warmth)
{
    const struct request *request = &program->request;
    PyObject *why = PyObject_CallMethod(warmth->program, "adopt", "IIIiy#y#", request->form, request->rest,
                                        request->unbuffered, watch_is_quiet(warmth->watch), program->arguments,
                                        (Py_ssize_t)request->arguments_size, program->environment,
                                        (Py_ssize_t)request->environment_size);
    if (why == Py_None)
        return true;
    if (why != NULL)
        return complain(warmth, PyUnicode_AsUTF8(why));
    dup2(warmth->complaints, 2);
    PyErr_Print();
    return false;
}

/* A file's name, or a command; "" for a script on the standard input. */
static const char *argument_of(const struct program *program)
{
    const char *at = program->arguments;
    const char *end = at + program->request.arguments_size;
    for (uint32_t skipped = 0; skipped < program->request.rest && at < end; skipped++)
        at += strlen(at) + 1;
    return at < end ? at : "";
}

/* What `ps` shows. The heap is below the stack, so each start is moved before its end. */
static void show(const struct program *program)
{
    unsigned long arguments = (unsigned long)(uintptr_t)program->arguments;
    unsigned long environment = (unsigned long)(uintptr_t)program->environment;
    prctl(PR_SET_MM, PR_SET_MM_ARG_START, arguments, 0, 0);
    prctl(PR_SET_MM, PR_SET_MM_ARG_END, arguments + program->request.arguments_size, 0, 0);
    prctl(PR_SET_MM, PR_SET_MM_ENV_START, environment, 0, 0);
    prctl(PR_SET_MM, PR_SET_MM_ENV_END, environment + program->request.environment_size, 0, 0);
    const char *name = strrchr(program->arguments, '/');
    prctl(PR_SET_NAME, name == NULL ? program->arguments : name + 1, 0, 0, 0);
}

/* From now on the end of the launcher is the end of this process group. The server has the socket open too and takes
 * this back once this process has ended: what that left running is not to be killed.
 */
static void live_with_launcher(int socket)
{
    struct pollfd end = {.fd = socket, .events = POLLRDHUP};
    fcntl(socket, F_SETOWN, -getpid());
    fcntl(socket, F_SETSIG, SIGKILL);
    fcntl(socket, F_SETFL, O_ASYNC);
    if (poll(&end, 1, 0) != 0)
        _exit(0);
}

static bool is_alike(const struct program *program, const struct warmth *warmth)
{
    return strcmp(program->identity, warmth->identity) == 0 || complain(warmth, "it inherits something else");
}

static bool begins(int socket, const struct warmth *warmth, struct program *program)
{
    char run = 0;
    pid_t self = getpid();
    stream_be_patient(socket, PATIENCE_S);
    if (!receive(socket, program))
        return false;
    stream_be_patient(socket, 0); /* the launcher is the one to lose patience: it would take our end for the program's */
    if (!is_alike(program, warmth) || !take_place(program) || !is_adopted(program, warmth))
        self = 0;
    if (!stream_send(socket, &self, sizeof self) || self == 0 || !stream_receive(socket, &run, 1) || run != RUN)
        return false;
    show(program);
    live_with_launcher(socket);
    return true;
}

static void unbuffer(void)
{
    FILE *const streams[] = {stdin, stdout, stderr};
    for (size_t at = 0; at < sizeof streams / sizeof *streams; at++)
        setvbuf(streams[at], NULL, _IONBF, 0);
}

int program_run(int socket, const struct warmth *warmth)
{
    struct program program = {0};
    sigprocmask(SIG_SETMASK, &warmth->signals, NULL);
    if (!begins(socket, warmth, &program))
        _exit(0);
    close_range(3, ~0u, 0);
    if (program.request.unbuffered)
        unbuffer();
    return run((enum form)program.request.form, argument_of(&program));
}
