#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "child.h"
#include "descent.h"
#include "environment.h"
#include "terminal.h"
#include "user.h"

#define ARGUMENTS_MAX 4096

/* The program's side of what process->talk, input and output are the agent's side of. */
struct wiring {
    int talk;
    int standard[3];
};

/* One pipe; `ours` (0 reads, 1 writes) becomes non-blocking and the agent's. */
static bool lay_pipe(struct end *end, int ours, int *theirs, bool *bell)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return false;
    *theirs = ends[1 - ours];
    fcntl(ends[ours], F_SETFL, O_NONBLOCK);
    *end = (struct end){.fd = ends[ours], .bell = bell};
    return ours == 1 || end_open(end, ends[ours], bell);
}

static bool lay_talk(struct process *process, int *theirs, bool *bell)
{
    int ends[2];
    if (!talk_open(ends))
        return false;
    *theirs = ends[1];
    process->talk.fd = ends[0];
    return end_open(&process->talk, ends[0], bell);
}

static bool lay_terminal(struct process *process, const struct fields *fields, struct wiring *wiring, bool *bell)
{
    uint16_t rows = (uint16_t)fields_number(fields, TAG_ROWS, 0);
    uint16_t columns = (uint16_t)fields_number(fields, TAG_COLS, 0);
    process->terminal = true;
    return terminal_open(&process->output[0], &wiring->standard[0], bell) &&
           terminal_resize(process->output[0].fd, rows, columns);
}

static bool lay_pipes(struct process *process, const struct fields *fields, struct wiring *wiring, bool *bell)
{
    if (fields_flag(fields, TAG_STDIN) && !lay_pipe(&process->input, 1, &wiring->standard[0], bell))
        return false;
    return lay_pipe(&process->output[0], 0, &wiring->standard[1], bell) &&
           lay_pipe(&process->output[1], 0, &wiring->standard[2], bell);
}

static void close_wiring(const struct wiring *wiring)
{
    if (wiring->talk >= 0)
        close(wiring->talk);
    for (int number = 0; number < 3; number++)
        if (wiring->standard[number] >= 0)
            close(wiring->standard[number]);
}

/* Standard input, output and error of the program; what was not asked for is /dev/null. */
static bool take_standard(const struct wiring *wiring, bool terminal)
{
    int input = wiring->standard[0] >= 0 ? wiring->standard[0] : open("/dev/null", O_RDWR | O_CLOEXEC);
    int output = terminal ? input : wiring->standard[1];
    int error = terminal ? input : wiring->standard[2];
    return dup2(input, 0) == 0 && dup2(output, 1) == 1 && dup2(error, 2) == 2;
}

/* The values are ended as strings later. */
static char *const *arguments_of(const struct fields *fields, const struct user *user)
{
    static char *arguments[ARGUMENTS_MAX + 1];
    static char dash_c[] = "-c";
    size_t count = 0;
    if (fields_has(fields, TAG_SHELL)) {
        arguments[count++] = (char *)(uintptr_t)user->shell;
        arguments[count++] = dash_c;
        arguments[count++] = fields_string(fields, TAG_SHELL);
    }
    struct span rest = fields->payload;
    struct field field;
    while (fields_next(&rest, &field))
        if (field.tag == TAG_ARG) {
            if (count == ARGUMENTS_MAX)
                answer_done(E2BIG, "arguments");
            arguments[count++] = (char *)(uintptr_t)field.value.data;
        }
    arguments[count] = NULL;
    return arguments;
}

/* Without a word about the directory the program starts at home, or at / where there is no such home. */
static void enter_directory(const char *asked, const char *home)
{
    if (asked != NULL && asked[0] != '/')
        answer_done(EINVAL, "a directory that is not absolute");
    if (asked != NULL && chdir(asked) != 0)
        answer_done(errno, asked);
    if (asked == NULL && chdir(home) != 0 && chdir("/") != 0)
        answer_done(errno, "/");
}

struct order {
    const struct wiring *wiring;
    const struct fields *fields;
    bool terminal;
};

static _Noreturn void run(const struct order *order)
{
    const struct fields *fields = order->fields;
    struct user user;
    answer_through(order->wiring->talk);
    setsid();
    if (fields_number(fields, TAG_TIMEOUT_MS, 0) > 0)
        descent_keep();
    if (!user_find(fields->value[TAG_USER], &user))
        answer_done(EINVAL, "no such user");
    char *const *arguments = arguments_of(fields, &user);
    environment_build(fields, &user, order->terminal);
    if (order->terminal && !terminal_take(order->wiring->standard[0], user.uid))
        answer_done(errno, "terminal");
    if (!take_standard(order->wiring, order->terminal))
        answer_done(errno, "standard input");
    if (!user_become(&user))
        answer_done(errno, "become the user");
    fields_end_strings(fields);
    enter_directory(fields_string(fields, TAG_CWD), user.home);
    execvp(arguments[0], arguments);
    answer_done(errno, arguments[0]);
}

static pid_t start(const struct order *order)
{
    pid_t pid = child_fork();
    if (pid == 0)
        run(order);
    return pid;
}

bool launch(struct process *process, const struct fields *fields, bool *bell)
{
    struct wiring wiring = {-1, {-1, -1, -1}};
    bool terminal = fields_has(fields, TAG_ROWS);
    bool laid = lay_talk(process, &wiring.talk, bell) && (terminal ? lay_terminal(process, fields, &wiring, bell)
                                                                   : lay_pipes(process, fields, &wiring, bell));
    struct order order = {&wiring, fields, terminal};
    process->pid = laid ? start(&order) : -1;
    int error = errno;
    close_wiring(&wiring);
    if (process->pid > 0)
        return true;
    end_close(&process->talk);
    end_close(&process->input);
    end_close(&process->output[0]);
    end_close(&process->output[1]);
    errno = error;
    return false;
}
