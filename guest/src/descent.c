#include "descent.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "tree.h"

#define FAMILY_MAX 4096
#define PASSES 8 /* over all processes, as long as each finds somebody new */

static pid_t family[FAMILY_MAX];
static size_t members;

void descent_keep(void)
{
    prctl(PR_SET_CHILD_SUBREAPER, 1);
}

static bool is_member(pid_t pid)
{
    for (size_t at = 0; at < members; at++)
        if (family[at] == pid)
            return true;
    return false;
}

/* From /proc/N/stat: "N (name) state parent …", where the name may hold anything. 0 when the process is gone. */
static pid_t parent_of(pid_t pid)
{
    char path[64];
    char text[512] = {0};
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return 0;
    ssize_t size = read(file, text, sizeof text - 1);
    close(file);
    const char *behind = size > 0 ? strrchr(text, ')') : NULL;
    return behind == NULL || strlen(behind) < 4 ? 0 : (pid_t)strtol(behind + 4, NULL, 10);
}

/* Stopped at once: who is stopped has no more children, and does not let go of those it has. */
static void take(pid_t pid)
{
    if (members == FAMILY_MAX)
        return;
    family[members++] = pid;
    kill(pid, SIGSTOP);
}

static int consider(const struct visit *visit)
{
    pid_t pid = visit->depth == 1 ? (pid_t)strtol(visit->name, NULL, 10) : 0;
    if (pid > 0 && !is_member(pid) && is_member(parent_of(pid)))
        take(pid);
    return 0;
}

void descent_kill(pid_t root)
{
    const struct walk walk = {.enter = consider, .depth = 1, .forgiving = true};
    members = 0;
    take(root);
    for (size_t pass = 0, before = 0; pass < PASSES && before < members; pass++) {
        before = members;
        tree_walk(AT_FDCWD, "/proc", &walk);
    }
    while (members > 0)
        kill(family[--members], SIGKILL);
}
