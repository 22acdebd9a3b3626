/* Moments in which nobody but the agent runs: from before a snapshot until its gate has renewed what chance is drawn from. */
#ifndef GUARD_H
#define GUARD_H

#include <stdbool.h>
#include <stdint.h>

#define GUARD_MS_MAX 900u /* the kernel lets the rest of a second to others, whoever holds the processors */

/* A machine of its own: its processors are held. Without it nothing is, and that always succeeds. */
void guard_own_machine(void);

/* From the return on no other process runs, for `ttl_ms` at most: the agent must not sleep meanwhile. 0 or an errno. */
int guard_hold(uint32_t ttl_ms);

bool guard_holds(void);
void guard_release(void);
void guard_expire(void);

#endif
