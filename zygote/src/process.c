#define _GNU_SOURCE
#include "process.h"

#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What the command line holds in place of the machine's name; children write theirs over it, so that ps tells them apart. */
static const char PLACEHOLDER[] = "pandastack-################################################################";

static char *place;
static bool is_closed; /* nobody but root may look at it */

enum { NOT_BECOME = 115 };

void process_arguments(int count, char **arguments)
{
    for (int i = 0; i < count; i++)
        if (strcmp(arguments[i], PLACEHOLDER) == 0)
            place = arguments[i];
}

void process_rename(const char *name)
{
    if (!place)
        return;
    memset(place, 0, sizeof PLACEHOLDER);
    strncpy(place, name, sizeof PLACEHOLDER - 1);
}

void process_asks_children(void)
{
    signal(SIGCHLD, SIG_DFL);
}

void process_ignores_children(void)
{
    signal(SIGCHLD, SIG_IGN);
}

bool process_becomes(unsigned user)
{
    if (user == 0)
        return true;
    if (user != geteuid() && (setgroups(0, NULL) != 0 || setresgid(user, user, user) != 0 || setresuid(user, user, user) != 0))
        return false;
    is_closed = true;
    return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0;
}

/* The kernel's own calls: the C library's are for all threads. */
void process_becomes_in_child(unsigned user)
{
    if (user == 0 || user == geteuid())
        return;
    if (syscall(SYS_setgroups, 0, NULL) != 0 || syscall(SYS_setresgid, user, user, user) != 0 ||
        syscall(SYS_setresuid, user, user, user) != 0) {
        perror("a forked machine cannot have its user");
        _exit(NOT_BECOME);
    }
}

void process_open(bool open)
{
    if (is_closed)
        prctl(PR_SET_DUMPABLE, open, 0, 0, 0);
}

void process_gains_nothing(void)
{
    for (int which = 0; prctl(PR_CAPBSET_READ, which, 0, 0, 0) >= 0; which++)
        prctl(PR_CAPBSET_DROP, which, 0, 0, 0);
}

bool process_moves_on(void)
{
    return unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) == 0;
}
