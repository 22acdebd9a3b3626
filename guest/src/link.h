/* The byte stream to the host: a virtio-serial port, a listening Unix socket or an inherited descriptor.
 *
 * Incoming bytes are handed to the session in place; outgoing frames wait in a bounded queue. */
#ifndef LINK_H
#define LINK_H

#include <stdbool.h>

#include "fields.h"

/* Who reads what the link receives. */
struct link_reader {
    size_t (*take)(struct span bytes); /* how many leading bytes are dealt with */
    bool (*full)(void);                /* true: take nothing now, the answers would not fit */
    void (*lost)(void);                /* the other side is gone, or its bytes stopped in mid-frame */
};

void link_open_port(int fd);      /* a virtio-serial port: stays open while no host is connected */
void link_open_descriptor(int fd); /* the agent and all that it started end when it hangs up */
void link_open_listener(int fd);  /* one connection at a time */

/* Receives at most one read's worth and hands it over. True when there may be more to do at once. */
bool link_receive(const struct link_reader *reader);

/* Writes what is queued as far as the other side takes it. True when something moved. */
bool link_flush(void);

/* When the link next wants link_receive() called with nothing having happened; NEVER when it does not. */
uint64_t link_deadline(void);

/* Drops what is queued: the other side waits for the frame that comes next. */
void link_discard(void);

/* Bytes queued; streams add to the queue only below LINK_BUSY, the session's own answers below LINK_FULL. */
size_t link_queued(void);
#define LINK_BUSY (64u * 1024)
#define LINK_FULL (128u * 1024)

/* A frame in the making at the end of the queue, of at most LINK_PAYLOAD bytes. Nothing is sent before link_end(). */
#define LINK_PAYLOAD (48u * 1024)
struct writer link_begin(void);
void link_end(const struct writer *payload, enum frame_type type, uint32_t stream);

#endif
