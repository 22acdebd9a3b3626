#include "frame.h"

#include <stdbool.h>

struct kind {
    bool known;
    bool of_session; /* travels on stream 0 */
    uint32_t least;  /* bytes of payload */
    uint32_t most;
};

#define PAYLOAD_MAX (FRAME_LENGTH_MAX - FRAME_LENGTH_MIN)

/* What a host may send. */
static const struct kind kinds[FRAME_TYPE_LIMIT] = {
    [FRAME_HELLO] = {true, true, NONCE_SIZE + 4, NONCE_SIZE + 4},
    [FRAME_GATE] = {true, true, 0, PAYLOAD_MAX},
    [FRAME_SEAL] = {true, true, 0, 0},
    [FRAME_PING] = {true, true, 8, 8},
    [FRAME_FREEZE] = {true, true, 4, 4},
    [FRAME_THAW] = {true, true, 0, 0},
    [FRAME_STILL] = {true, true, 4, 4},
    [FRAME_GO] = {true, true, 0, 0},
    [FRAME_OPEN] = {true, false, 1, PAYLOAD_MAX},
    [FRAME_DATA] = {true, false, 2, PAYLOAD_MAX},
    [FRAME_EOF] = {true, false, 1, 1},
    [FRAME_CREDIT] = {true, false, 4, 4},
    [FRAME_RESIZE] = {true, false, 4, 4},
    [FRAME_SIGNAL] = {true, false, 1, 1},
    [FRAME_CLOSE] = {true, false, 1, 1},
};

static const uint8_t hello_head[FRAME_HEAD] = {FRAME_LENGTH_MIN + NONCE_SIZE + 4, 0, 0, 0, FRAME_HELLO};

enum frame_state frame_parse(struct span input, struct frame *frame)
{
    if (input.size < FRAME_HEAD)
        return FRAME_PARTIAL;
    uint32_t length = load32(input.data);
    frame->type = input.data[4];
    frame->stream = load32(input.data + 5);
    if (length < FRAME_LENGTH_MIN || length > FRAME_LENGTH_MAX || frame->type >= FRAME_TYPE_LIMIT)
        return FRAME_BROKEN;
    const struct kind *kind = &kinds[frame->type];
    uint32_t size = length - FRAME_LENGTH_MIN;
    if (!kind->known || kind->of_session != (frame->stream == 0) || size < kind->least || size > kind->most)
        return FRAME_BROKEN;
    frame->whole = FRAME_HEAD + size;
    frame->payload = (struct span){input.data + FRAME_HEAD, size};
    return input.size < frame->whole ? FRAME_PARTIAL : FRAME_READY;
}

size_t frame_find_hello(struct span input)
{
    for (size_t at = 0; at < input.size; at++)
        if (memcmp(input.data + at, hello_head, smaller(sizeof hello_head, input.size - at)) == 0)
            return at;
    return input.size;
}
