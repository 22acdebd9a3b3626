/* The last output of a process, for its readers: 64 KiB, each byte with the channel it came on.
 *
 * Positions count the bytes since the process began. A reader behind the oldest kept byte has missed some. */
#ifndef REPLAY_H
#define REPLAY_H

#include <stdbool.h>
#include <sys/uio.h>

#include "bytes.h"

#define REPLAY_SIZE (64u * 1024)

struct replay {
    uint8_t *bytes;                      /* REPLAY_SIZE of them */
    uint64_t written;                    /* the position behind the newest byte */
    uint64_t on_error[REPLAY_SIZE / 64]; /* one bit a byte: it came on channel 2 */
    bool errors;                         /* any bit was ever set */
};

/* Where the next `size` bytes go: one or two pieces. replay_add() then says how many came. */
int replay_room(const struct replay *replay, size_t size, struct iovec pieces[2]);
void replay_add(struct replay *replay, size_t size, int channel);

/* Copies up to `size` bytes from `position` on that share one channel; returns how many and sets `channel`. */
size_t replay_copy(const struct replay *replay, uint64_t position, uint8_t *into, size_t size, int *channel);

/* The position of the oldest byte that is kept. */
uint64_t replay_oldest(const struct replay *replay);

#endif
