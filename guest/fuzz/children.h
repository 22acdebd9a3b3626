/* The children that the agent believes to have. */
#ifndef CHILDREN_H
#define CHILDREN_H

#include <sys/types.h>

/* Calls `ended` for each child since the last time, the newest first. */
void children_end(void (*ended)(pid_t pid));

#endif
