/* A process and all that descends from it. */
#ifndef DESCENT_H
#define DESCENT_H

#include <sys/types.h>

/* Makes the calling process the new parent of its orphans, so that none of its line leaves it while it runs. Outlives
 * exec, and is not handed down. */
void descent_keep(void);

/* Kills a process and its line, in whatever group or session they are. What a process that does not keep its line has
 * lost to others lives on. */
void descent_kill(pid_t root);

#endif
