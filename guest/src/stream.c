#include "stream.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "child.h"
#include "dial.h"
#include "link.h"
#include "memory.h"

#define ALLOW_AT (STREAM_CREDIT / 4)
#define CONTENT_MAX (32u * 1024 - FRAME_HEAD - 1) /* the frame is what a virtio port takes in one write */

static struct stream streams[STREAMS_MAX];
static size_t slots_used;
static PAGE_ALIGNED uint8_t inputs[STREAMS_MAX][STREAM_CREDIT];

void streams_open(void)
{
    memory_keep_from_children(inputs, sizeof inputs);
}

static uint8_t *input_of(const struct stream *stream)
{
    return inputs[stream - streams];
}

struct stream *stream_next(size_t *at)
{
    while (*at < slots_used) {
        struct stream *stream = &streams[(*at)++];
        if (stream->id != 0)
            return stream;
    }
    return NULL;
}

struct stream *stream_find(uint32_t id)
{
    size_t at = 0;
    struct stream *stream;
    while ((stream = stream_next(&at)) != NULL && stream->id != id)
        continue;
    return stream;
}

static bool is_crowded(bool dials)
{
    size_t count = 0;
    size_t at = 0;
    for (struct stream *stream; (stream = stream_next(&at)) != NULL;)
        count += (stream->operation == OP_DIAL) == dials;
    return count >= (dials ? DIALS_MAX : OTHERS_MAX);
}

struct stream *stream_open(uint32_t id, enum operation operation)
{
    size_t slot = 0;
    if (is_crowded(operation == OP_DIAL))
        return NULL;
    while (slot < slots_used && streams[slot].id != 0)
        slot++;
    slots_used += slot == slots_used;
    streams[slot] = (struct stream){
        .id = id,
        .operation = operation,
        .credit = STREAM_CREDIT,
        .window = STREAM_CREDIT,
        .talk = END_CLOSED,
        .source = END_CLOSED,
        .sink = END_CLOSED,
    };
    return &streams[slot];
}

void stream_forget(struct stream *stream)
{
    if (stream->operation == OP_DIAL)
        dial_hang_up(stream);
    end_close(&stream->talk);
    end_close(&stream->source);
    end_close(&stream->sink);
    if (stream->process != NULL) {
        stream->process->readers--;
        process_let_go(stream->process);
    }
    if (stream->input_size > 0)
        memory_give_back(input_of(stream), STREAM_CREDIT);
    stream->id = 0;
}

void stream_done(struct stream *stream, int error, const char *what)
{
    struct writer payload = link_begin();
    put_outcome(&payload, error, what);
    link_end(&payload, FRAME_DONE, stream->id);
    stream_forget(stream);
}

static size_t pass_on_to_process(struct stream *stream, struct span bytes)
{
    size_t taken = process_write(stream->process, bytes);
    stream->input_lost |= taken > 0 && !process_takes_input(stream->process);
    return taken;
}

/* How much of `bytes` the receiver took. A receiver that is gone takes everything. */
static size_t pass_on(struct stream *stream, struct span bytes)
{
    if (stream->process != NULL)
        return pass_on_to_process(stream, bytes);
    if (stream->operation == OP_DIAL)
        return dial_write(stream, bytes);
    if (stream->sink.fd < 0)
        return bytes.size;
    ssize_t sent = write(stream->sink.fd, bytes.data, bytes.size);
    if (sent >= 0)
        return (size_t)sent;
    if (errno == EAGAIN && (stream->sink.watched || end_watch(&stream->sink, EPOLLOUT)))
        return 0;
    end_close(&stream->sink);
    return bytes.size;
}

static void pass_on_end(struct stream *stream)
{
    if (stream->process != NULL) {
        if (stream->closes_input)
            process_end_input(stream->process);
    } else if (stream->operation == OP_DIAL) {
        dial_end(stream);
    } else if (stream->sink.fd >= 0) {
        talk_commit(stream->talk.fd);
        end_close(&stream->sink);
    }
    stream->input_closed = true;
}

/* Behind what waits already: the window is as large as the ring, so it has room. */
static void keep(struct stream *stream, struct span bytes)
{
    uint8_t *ring = input_of(stream);
    size_t end = (stream->input_start + stream->input_size) % STREAM_CREDIT;
    size_t first = smaller(bytes.size, STREAM_CREDIT - end);
    memcpy(ring + end, bytes.data, first);
    memcpy(ring, bytes.data + first, bytes.size - first);
    stream->input_size += bytes.size;
}

bool stream_take_input(struct stream *stream, struct span bytes)
{
    if (!stream->takes_input || stream->input_ended || bytes.size > stream->window)
        return false;
    stream->window -= (uint32_t)bytes.size;
    size_t taken = stream->input_size > 0 ? 0 : pass_on(stream, bytes);
    stream->owed += (uint32_t)taken;
    keep(stream, (struct span){bytes.data + taken, bytes.size - taken});
    return true;
}

bool stream_take_end(struct stream *stream)
{
    if (!stream->takes_input || stream->input_ended)
        return false;
    stream->input_ended = true;
    stream_feed(stream);
    return true;
}

bool stream_feed(struct stream *stream)
{
    bool moved = false;
    while (stream->input_size > 0) {
        size_t piece = smaller(stream->input_size, STREAM_CREDIT - stream->input_start);
        size_t taken = pass_on(stream, (struct span){input_of(stream) + stream->input_start, piece});
        if (taken == 0)
            return moved;
        stream->input_start = (stream->input_start + taken) % STREAM_CREDIT;
        stream->input_size -= taken;
        stream->owed += (uint32_t)taken;
        moved = true;
    }
    stream->input_start = 0;
    if (stream->input_ended && !stream->input_closed)
        pass_on_end(stream);
    return moved;
}

bool stream_allow(struct stream *stream)
{
    if (stream->owed < ALLOW_AT || stream->input_ended)
        return false;
    struct writer payload = link_begin();
    uint8_t bytes[4];
    store32(bytes, stream->owed);
    put_bytes(&payload, bytes, sizeof bytes);
    link_end(&payload, FRAME_CREDIT, stream->id);
    stream->window += stream->owed;
    stream->owed = 0;
    return true;
}

size_t stream_allowance(const struct stream *stream)
{
    return stream->credit < CONTENT_MAX ? (size_t)stream->credit : CONTENT_MAX;
}

uint64_t streams_slowest(const struct process *process)
{
    uint64_t slowest = process->replay.written;
    size_t at = 0;
    for (struct stream *stream; process->readers > 0 && (stream = stream_next(&at)) != NULL;)
        if (stream->process == process && stream->position < slowest)
            slowest = stream->position;
    return slowest;
}

bool stream_reaped(pid_t pid)
{
    size_t at = 0;
    for (struct stream *stream; (stream = stream_next(&at)) != NULL;)
        if (stream->worker == pid) {
            stream->worker = 0;
            return true;
        }
    return false;
}
