/* Pages that the kernel wipes in a child (MADV_WIPEONFORK), wiped in a restored machine too: to begin another life is to
 * be forked. Generators of random numbers that notice a fork by such a page (BoringSSL's) take theirs anew then, as
 * nothing else makes them do.
 *
 * Only in the programs that ROOT/etc/pandastack/wipe-on-restore names, one path a line: to look for such pages takes
 * milliseconds a process. */
#ifndef WIPE_H
#define WIPE_H

#include <stdbool.h>

#include "fields.h"

/* Once: where the list is. Without it there is none. */
void wipe_prepare(const char *root);

/* The machine is about to be sealed: what runs is looked at now, so that its lives find it known. Without a list by now
 * the next life does not look for one. */
void wipe_seal(void);

/* Wipes. May wait for programs that hold their memory, so others must be able to run. */
void wipe_all(void);

/* HOOKS_FAILED by the name of the list, when some page or process was left out. */
void wipe_tell(struct writer *writer);

#endif
