/* Content: bytes between a file and a pipe or another file. */
#ifndef CONTENT_H
#define CONTENT_H

#include <stdbool.h>
#include <stdint.h>

/* Moves up to `limit` bytes, without a copy through the process where the kernel can. Adds what it moved to `moved`.
 * False with errno; true at the end of `from` or at the limit. */
bool content_move(int from, int into, uint64_t limit, uint64_t *moved);

/* Makes room in a pipe for much at once; advice. */
void content_widen(int pipe);

#endif
