#include "farewell.h"

#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "freezer.h"

#define ROUNDS 200 /* of 5 ms */

/* Sends a signal to the agent's children, as many as one read tells. False when there are none. */
static bool kill_children(int number)
{
    char path[64];
    char children[4096];
    snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = file < 0 ? 0 : read(file, children, sizeof children - 1);
    if (file >= 0)
        close(file);
    if (size <= 0)
        return false;
    children[size] = '\0';
    char *end = children;
    for (long pid; (pid = strtol(end, &end, 10)) > 0;)
        if (*end == ' ')
            kill((pid_t)pid, number);
    return true;
}

/* First a word that lets workers take back what they have half done; then no word. The orphans of who is killed
 * become the agent's own children: round by round the whole tree goes. */
_Noreturn void farewell(void)
{
    const struct timespec brief = {.tv_nsec = 5 * 1000 * 1000};
    for (int round = 0; round < ROUNDS && kill_children(round == 0 ? SIGTERM : SIGKILL); round++) {
        nanosleep(&brief, NULL);
        while (waitpid(-1, NULL, WNOHANG) > 0)
            continue;
    }
    freezer_release();
    _exit(0);
}
