#define _GNU_SOURCE
#include "process.h"

#include <signal.h>
#include <stddef.h>
#include <string.h>

/* What the command line holds in place of the machine's name; children write theirs over it, so that ps tells them apart. */
static const char PLACEHOLDER[] = "pandastack-################################################################";

static char *place;

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
