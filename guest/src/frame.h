/* Frames: the head's sanity is known from nine bytes, before the payload is there. */
#ifndef FRAME_H
#define FRAME_H

#include "bytes.h"
#include "protocol.h"

struct frame {
    uint8_t type;
    uint32_t stream;
    struct span payload;
    size_t whole; /* bytes of the frame with its head */
};

enum frame_state { FRAME_PARTIAL, FRAME_READY, FRAME_BROKEN };

/* Looks at the first frame of `input`. BROKEN: no host that keeps the protocol sends this. */
enum frame_state frame_parse(struct span input, struct frame *frame);

/* The offset of the first thing in `input` that is or may become a HELLO; `input.size` when there is none. */
size_t frame_find_hello(struct span input);

#endif
