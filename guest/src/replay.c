#include "replay.h"

#include "protocol.h"

#define MASK (REPLAY_SIZE - 1)

int replay_room(const struct replay *replay, size_t size, struct iovec pieces[2])
{
    size_t start = replay->written & MASK;
    size_t first = smaller(size, REPLAY_SIZE - start);
    pieces[0] = (struct iovec){replay->bytes + start, first};
    pieces[1] = (struct iovec){replay->bytes, size - first};
    return size > first ? 2 : 1;
}

static void mark(struct replay *replay, size_t index, bool error)
{
    uint64_t bit = 1ull << (index % 64);
    if (error)
        replay->on_error[index / 64] |= bit;
    else
        replay->on_error[index / 64] &= ~bit;
}

void replay_add(struct replay *replay, size_t size, int channel)
{
    bool error = channel == CHANNEL_ERROR;
    uint64_t end = replay->written + size;
    if (error)
        replay->errors = true;
    for (uint64_t at = replay->written; at < end && replay->errors;) {
        size_t index = at & MASK;
        if (index % 64 == 0 && end - at >= 64) {
            replay->on_error[index / 64] = error ? UINT64_MAX : 0;
            at += 64;
        } else {
            mark(replay, index, error);
            at++;
        }
    }
    replay->written = end;
}

static bool is_error(const struct replay *replay, uint64_t position)
{
    size_t index = position & MASK;
    return replay->errors && (replay->on_error[index / 64] >> (index % 64) & 1) != 0;
}

/* How many bytes from `position` on, up to `limit`, share its channel. */
static size_t run_length(const struct replay *replay, uint64_t position, size_t limit)
{
    if (!replay->errors)
        return limit;
    bool error = is_error(replay, position);
    uint64_t whole = error ? UINT64_MAX : 0;
    size_t run = 0;
    while (run < limit) {
        size_t index = (position + run) & MASK;
        if (index % 64 == 0 && limit - run >= 64 && replay->on_error[index / 64] == whole)
            run += 64;
        else if (is_error(replay, position + run) == error)
            run++;
        else
            break;
    }
    return run;
}

size_t replay_copy(const struct replay *replay, uint64_t position, uint8_t *into, size_t size, int *channel)
{
    size_t run = run_length(replay, position, smaller(size, (size_t)(replay->written - position)));
    size_t start = position & MASK;
    size_t first = smaller(run, REPLAY_SIZE - start);
    memcpy(into, replay->bytes + start, first);
    memcpy(into + first, replay->bytes, run - first);
    *channel = is_error(replay, position) ? CHANNEL_ERROR : CHANNEL_OUT;
    return run;
}

uint64_t replay_oldest(const struct replay *replay)
{
    return replay->written > REPLAY_SIZE ? replay->written - REPLAY_SIZE : 0;
}
