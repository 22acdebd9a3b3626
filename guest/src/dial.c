#include "dial.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "clock.h"
#include "link.h"
#include "reach.h"

#define CONNECT_PATIENCE (5 * NS_PER_S)

/* The next way that can be tried at all; what the first one said is what the host is told. */
static void try_on(struct stream *stream)
{
    while (stream->way < WAY_LIMIT) {
        int fd = reach((enum way)stream->way++, stream->port);
        stream->source = (struct end){.fd = fd};
        if (fd >= 0 && end_watch(&stream->source, EPOLLIN | EPOLLOUT | EPOLLRDHUP)) {
            stream->source.ready = true;
            return;
        }
        stream->failure = stream->failure == 0 ? errno : stream->failure;
        end_close(&stream->source);
    }
    stream->until = NEVER;
}

void dial_open(struct stream *stream, const struct fields *fields)
{
    stream->port = (uint16_t)fields_number(fields, TAG_PORT, 0);
    stream->until = monotonic_ns() + CONNECT_PATIENCE;
    try_on(stream);
}

size_t dial_write(struct stream *stream, struct span bytes)
{
    ssize_t sent = send(stream->source.fd, bytes.data, bytes.size, MSG_NOSIGNAL);
    if (sent >= 0)
        return (size_t)sent;
    if (errno == EAGAIN)
        return 0;
    stream->input_lost = true;
    return bytes.size;
}

void dial_end(struct stream *stream)
{
    shutdown(stream->source.fd, SHUT_WR);
}

void dial_hang_up(const struct stream *stream)
{
    if (stream->source.fd >= 0)
        shutdown(stream->source.fd, SHUT_RDWR);
}

static void say_opened(struct stream *stream)
{
    struct writer payload = link_begin();
    link_end(&payload, FRAME_OPENED, stream->id);
    stream->opened = true;
    stream->takes_input = true;
    stream->until = NEVER;
}

static bool connect_turn(struct stream *stream)
{
    if (stream->source.fd < 0) {
        stream_done(stream, stream->failure, "connect");
        return true;
    }
    if (!stream->source.ready)
        return false;
    int outcome = reach_outcome(stream->source.fd);
    if (outcome == EINPROGRESS) {
        stream->source.ready = false;
        return false;
    }
    if (outcome == 0) {
        say_opened(stream);
        return true;
    }
    stream->failure = stream->failure == 0 ? outcome : stream->failure;
    end_close(&stream->source);
    try_on(stream);
    return true;
}

static void say_source_ended(struct stream *stream)
{
    struct writer payload = link_begin();
    put_byte(&payload, CHANNEL_OUT);
    link_end(&payload, FRAME_EOF, stream->id);
    stream->source_ended = true;
}

static bool relay(struct stream *stream)
{
    size_t allowed = stream_allowance(stream);
    if (allowed == 0 || !stream->source.ready)
        return false;
    struct writer payload = link_begin();
    struct iovec into = {payload.data + 1, allowed};
    ssize_t got = end_read(&stream->source, &into, 1);
    if (got < 0 && errno == EAGAIN)
        return false;
    if (got < 0) {
        stream_done(stream, errno, "read");
    } else if (got == 0) {
        say_source_ended(stream);
    } else {
        payload.data[0] = CHANNEL_OUT;
        payload.size = (size_t)got + 1;
        link_end(&payload, FRAME_DATA, stream->id);
        stream->credit -= (uint64_t)got;
    }
    return true;
}

/* What the service still says is heard to its end, also when it takes nothing more. */
bool dial_turn(struct stream *stream)
{
    if (!stream->opened)
        return connect_turn(stream);
    if (!stream->source_ended)
        return relay(stream);
    if (!stream->input_closed && !stream->input_lost)
        return false;
    stream_done(stream, 0, NULL);
    return true;
}

static bool is_connecting(const struct stream *stream)
{
    return stream->operation == OP_DIAL && !stream->opened && stream->source.fd >= 0;
}

uint64_t dials_deadline(void)
{
    uint64_t soonest = NEVER;
    size_t at = 0;
    for (struct stream *stream; (stream = stream_next(&at)) != NULL;)
        if (is_connecting(stream) && stream->until < soonest)
            soonest = stream->until;
    return soonest;
}

void dials_expire(void)
{
    uint64_t now = monotonic_ns();
    size_t at = 0;
    for (struct stream *stream; (stream = stream_next(&at)) != NULL;)
        if (is_connecting(stream) && stream->until <= now) {
            stream->failure = ETIMEDOUT;
            end_close(&stream->source);
        }
}
