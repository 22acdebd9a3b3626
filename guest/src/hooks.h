/* The programs of ROOT/etc/pandastack/on-restore.d: they renew their own identity before the machine is used again.
 *
 * They run one after another, in the order of their names, while the loop goes on. */
#ifndef HOOKS_H
#define HOOKS_H

#include <stdbool.h>
#include <sys/types.h>

#include "fields.h"

#define HOOK_MS_DEFAULT 2000u
#define HOOK_MS_MAX 60000u

/* Once: where they are. Without it there are none. */
void hooks_prepare(const char *root);

/* The machine is about to be sealed: if there are none by now, the next start does not look again. That look would be
 * on the way of every sandbox of a template. */
void hooks_seal(void);

/* Begins to run them, all of them within `limit_ms`; over when hooks_running() is false. */
void hooks_start(struct span machine_id, struct span hostname, uint32_t limit_ms);
bool hooks_running(void);

/* Kills the one that runs, with its process group; it and those behind it have failed. */
void hooks_stop(void);

/* HOOKS_RUN, and HOOKS_FAILED for each that failed. */
void hooks_tell(struct writer *writer);

bool hooks_reaped(pid_t pid, int status);
uint64_t hooks_deadline(void);
void hooks_expire(void);

#endif
