#ifndef LOAD_H
#define LOAD_H

#include <stdbool.h>

/* In a machine whose guest stands still, and which is a fork of the same base: make its memory and devices those of a
 * snapshot. `base` is the end of the path of the file that its memory is a mapping of, `pages` holds the pages that differ
 * from it (see host/memory.py), `state` the devices. Translated code stays where memory did. False when a file is not as it
 * must be, or QEMU refuses; then the machine is good for nothing.
 */
bool load_snapshot(const char *base, int pages, const char *state);

/* The same with no pages that differ: a machine goes back to its base, with the devices in `state`. */
bool load_base(const char *base, const char *state);

#endif
