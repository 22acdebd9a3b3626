#include "hooks.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "child.h"
#include "clock.h"
#include "tree.h"

#define FOLDER "/etc/pandastack/on-restore.d"
#define HOOKS_MAX 64
#define VALUE_MAX 64 /* of a hostname or a machine id */

struct hook {
    char name[NAME_MAX + 1];
    bool failed;
};

static char folder[PATH_MAX]; /* empty: none */
static bool known_absent;     /* until the next start */
static struct hook hooks[HOOKS_MAX];
static size_t count;
static size_t current;    /* the hook that runs, or `count` */
static bool passed_over;  /* some program could not be taken in */
static pid_t program;     /* 0: none */
static uint64_t deadline = NEVER;

static char machine_id[sizeof "PANDASTACK_MACHINE_ID=" + VALUE_MAX];
static char hostname[sizeof "PANDASTACK_HOSTNAME=" + VALUE_MAX];

void hooks_prepare(const char *root)
{
    int size = snprintf(folder, sizeof folder, "%s" FOLDER, root);
    if (size < 0 || (size_t)size >= sizeof folder)
        folder[0] = '\0';
}

void hooks_seal(void)
{
    known_absent = access(folder, F_OK) != 0;
}

/* Whether nobody but the agent's user, root in a machine, can have written it. */
static bool is_trusted(const struct stat *status)
{
    return status->st_uid == geteuid() && (status->st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

/* An untrusted folder ends the walk; files that are no programs of ours are none of our business. */
static int take_in(const struct visit *visit)
{
    const struct stat *status = visit->status;
    if (visit->depth == 0) {
        passed_over = !S_ISDIR(status->st_mode) || !is_trusted(status);
        return passed_over ? EPERM : 0;
    }
    if (!S_ISREG(status->st_mode) || (status->st_mode & S_IXUSR) == 0 || !is_trusted(status))
        return 0;
    passed_over |= count == HOOKS_MAX;
    if (count < HOOKS_MAX)
        snprintf(hooks[count++].name, sizeof hooks->name, "%s", visit->name);
    return 0;
}

static int by_name(const void *one, const void *other)
{
    return strcmp(((const struct hook *)one)->name, ((const struct hook *)other)->name);
}

static _Noreturn void run(const char *name)
{
    static char search[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    static char home[] = "HOME=/root";
    static char language[] = "LANG=C.UTF-8";
    static char path[sizeof folder + NAME_MAX + 2];
    char *environment[] = {search, home, language, machine_id, hostname, NULL};
    char *arguments[] = {path, NULL};
    setsid();
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0 || dup2(null, 0) != 0 || dup2(null, 1) != 1 || dup2(null, 2) != 2 || chdir("/") != 0)
        _exit(126);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    execve(path, arguments, environment);
    _exit(127);
}

/* Starts the current hook, or the next one that can be started. */
static void start(void)
{
    for (program = 0; current < count && program == 0; current += program == 0) {
        pid_t pid = child_fork();
        if (pid == 0)
            run(hooks[current].name);
        hooks[current].failed = pid < 0;
        program = pid > 0 ? pid : 0;
    }
    if (program == 0)
        deadline = NEVER;
}

void hooks_start(struct span id, struct span name, uint32_t limit_ms)
{
    static const struct walk walk = {.enter = take_in, .depth = 1, .forgiving = true};
    bool skip = known_absent || folder[0] == '\0';
    count = current = 0;
    known_absent = passed_over = false;
    if (skip || tree_walk(AT_FDCWD, folder, &walk) != 0 || count == 0)
        return;
    qsort(hooks, count, sizeof *hooks, by_name);
    snprintf(machine_id, sizeof machine_id, "PANDASTACK_MACHINE_ID=%.*s", (int)id.size, (const char *)id.data);
    snprintf(hostname, sizeof hostname, "PANDASTACK_HOSTNAME=%.*s", (int)name.size, (const char *)name.data);
    deadline = monotonic_ns() + limit_ms * NS_PER_MS;
    start();
}

bool hooks_running(void)
{
    return program > 0;
}

/* By its own number too: it may not have come to make its group. */
void hooks_stop(void)
{
    if (program == 0)
        return;
    kill(program, SIGKILL);
    kill(-program, SIGKILL);
    program = 0;
    deadline = NEVER;
    while (current < count)
        hooks[current++].failed = true;
}

void hooks_tell(struct writer *writer)
{
    size_t run_well = 0;
    for (size_t at = 0; at < count; at++)
        run_well += !hooks[at].failed;
    put_number(writer, TAG_HOOKS_RUN, run_well);
    for (size_t at = 0; at < count; at++)
        if (hooks[at].failed)
            put_readable(writer, TAG_HOOKS_FAILED, hooks[at].name);
    if (passed_over)
        put_text(writer, TAG_HOOKS_FAILED, ".");
}

bool hooks_reaped(pid_t pid, int status)
{
    if (program == 0 || pid != program)
        return false;
    hooks[current++].failed = !WIFEXITED(status) || WEXITSTATUS(status) != 0;
    start();
    return true;
}

uint64_t hooks_deadline(void)
{
    return deadline;
}

void hooks_expire(void)
{
    if (deadline != NEVER && deadline <= monotonic_ns())
        hooks_stop();
}
