/* The root file system flushed and frozen, for a snapshot whose disk is consistent without its memory. Never for long. */
#ifndef FREEZER_H
#define FREEZER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define FREEZE_MS_MAX 30000u

/* A machine of its own: its root file system is frozen. Without it nothing is, and that always succeeds. */
void freezer_own_machine(void);

/* Begins to flush and freeze; over when freezer_busy() is false. It thaws by itself after `ttl_ms` from now on. When it
 * is frozen already it stays so for that long. EBUSY, and nothing done, while freezer_busy(). */
int freezer_freeze(uint32_t ttl_ms);

/* Whether a child is at work: flushing, freezing, or ended for coming too late. */
bool freezer_busy(void);

/* How the last freeze ended: 0 or an errno. */
int freezer_error(void);

/* Thaws, or gives up freezing: nothing is frozen any more once it is not busy. */
void freezer_thaw(void);

/* The same, having waited for the child. */
void freezer_release(void);

bool freezer_reaped(pid_t pid, int status);
uint64_t freezer_deadline(void);
void freezer_expire(void);

#endif
