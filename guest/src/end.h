/* One descriptor of the loop: the agent's end of a pipe, a terminal, a socket or the port.
 *
 * All are watched edge-triggered, mostly once and for all: `ready` stays true from an event until a
 * read or write finds nothing more to do. A stale event can only set `ready` for nothing, which costs one EAGAIN. */
#ifndef END_H
#define END_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct end {
    int fd; /* -1: closed */
    bool ready;
    bool hung_up; /* the other side is gone: read on until 0 */
    bool watched;
    bool *bell; /* also set by an event, for an owner of several ends; may be NULL */
};

#define END_CLOSED ((struct end){.fd = -1})

/* Waits up to `timeout_ms` (-1: for ever) for events and marks the ends that they belong to. */
void ends_wait(int timeout_ms);

/* Starts watching. The struct must stay where it is. False with errno when the kernel refuses. */
bool end_watch(struct end *end, uint32_t events);

/* Changes what a watched end is watched for; what is there already counts as an event. False with errno. */
bool end_change(const struct end *end, uint32_t events);

/* Gives `end` the descriptor and watches it for reading. False with errno; the descriptor is the caller's then. */
bool end_open(struct end *end, int fd, bool *bell);
void end_close(struct end *end);

/* Reads what is there. -1 with EAGAIN when that is nothing, 0 at the end. Keeps `ready` true to the facts. */
ssize_t end_read(struct end *end, const struct iovec *into, int count);

#endif
