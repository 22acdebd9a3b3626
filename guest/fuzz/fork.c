/* Children that never run: their ends close at once, and their number belongs to nobody. */
#include "child.h"
#include "children.h"

#define BEYOND_ANY_PID (1 << 23)

static pid_t newest = BEYOND_ANY_PID;

pid_t child_fork(void)
{
    return ++newest;
}

void children_end(void (*ended)(pid_t pid))
{
    for (; newest > BEYOND_ANY_PID; newest--)
        ended(newest);
}
