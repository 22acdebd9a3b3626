#ifndef SPARE_H
#define SPARE_H

#include <stdbool.h>
#include <sys/types.h>

#include "orders.h"

/* A fork takes milliseconds, most of them for page tables: so a server that has nothing to do forks one child ahead, which waits for
 * its order at its first step, before QEMU's own fork handlers and before it has a user. It ends when its server does.
 */

/* Fork it. Returns 0 in the child, when it has its order; that is `spare_order` then. */
pid_t spare_fork(void);
const struct order *spare_order(void);

bool spare_waits(void);

/* Have the one that waits do this. False when there is none. */
bool spare_takes(const struct order *order);

/* Whether it was the one that waits, which is gone then. */
bool spare_was(pid_t ended);

/* Have it end, and wait for that. */
void spare_end(void);

/* In whatever is forked, before anything else. */
void spare_in_child(void);

#endif
