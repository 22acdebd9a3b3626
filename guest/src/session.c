#include "session.h"

#include <errno.h>
#include <signal.h>
#include <sys/utsname.h>

#include "clock.h"
#include "dial.h"
#include "feed.h"
#include "follow.h"
#include "frame.h"
#include "freezer.h"
#include "gate.h"
#include "guard.h"
#include "operation.h"
#include "worker.h"

static bool welcomed; /* a HELLO came: frames are taken. Else everything up to the next HELLO is dropped */
static size_t first;  /* the slot of the stream that speaks first */
static struct utsname kernel;

/* Questions that are answered once what they began is over. */
static bool gate_asked;
static bool freeze_asked;
static bool thaw_asked;
static uint32_t still_asked; /* for how many ms; 0: not */
static bool thaw_due; /* once it may wait for the disk */
static uint64_t freeze_began;

void session_open(void)
{
    uname(&kernel);
}

static void reset(void)
{
    size_t at = 0;
    for (struct stream *stream; (stream = stream_next(&at)) != NULL;) {
        const struct operation_kind *kind = operation_kind((uint8_t)stream->operation);
        if (!kind->finishes)
            worker_stop(stream);
        stream_forget(stream);
    }
    welcomed = false;
    gate_asked = freeze_asked = thaw_asked = false;
    still_asked = 0;
    thaw_due = true;
}

static void take_hello(const struct frame *frame)
{
    reset();
    welcomed = true;
    link_discard();
    struct writer payload = link_begin();
    uint8_t version[4];
    store32(version, PROTOCOL_VERSION);
    put_bytes(&payload, frame->payload.data, NONCE_SIZE);
    put_bytes(&payload, version, sizeof version);
    put_text(&payload, TAG_AGENT, AGENT_VERSION);
    put_number(&payload, TAG_GATE_OPEN, gate_is_open());
    put_text(&payload, TAG_KERNEL, kernel.release);
    link_end(&payload, FRAME_WELCOME, 0);
}

static void answer(enum frame_type type, struct span bytes)
{
    struct writer payload = link_begin();
    put_bytes(&payload, bytes.data, bytes.size);
    link_end(&payload, type, 0);
}

static void say_failed(enum frame_type type, int error, const char *what, uint64_t began)
{
    struct writer payload = link_begin();
    put_outcome(&payload, error, what);
    put_number(&payload, TAG_SPENT_US, (monotonic_ns() - began) / NS_PER_US);
    link_end(&payload, type, 0);
}

static void say_gated(void)
{
    struct writer payload = link_begin();
    put_outcome(&payload, 0, NULL);
    gate_tell(&payload);
    link_end(&payload, FRAME_GATED, 0);
}

static void say_thawed(void)
{
    struct writer payload = link_begin();
    put_outcome(&payload, 0, NULL);
    link_end(&payload, FRAME_THAWED, 0);
}

static void say_frozen(int error)
{
    say_failed(FRAME_FROZEN, error, "freeze", freeze_began);
}

static void say_still(int error)
{
    struct writer payload = link_begin();
    put_outcome(&payload, error, "still");
    put_number(&payload, TAG_CLOCK_NS, clock_ns(CLOCK_REALTIME));
    link_end(&payload, FRAME_STILLED, 0);
}

/* Thawing waits for the disk, and lets others run meanwhile. */
static void thaw_if_due(void)
{
    if (!thaw_due || guard_holds())
        return;
    thaw_due = false;
    freezer_thaw();
}

/* Answers what is over by now. True when something was. */
static bool answer_due(void)
{
    thaw_if_due();
    bool gate = gate_asked && gate_is_open();
    bool freeze = freeze_asked && !freezer_busy();
    bool thaw = thaw_asked && !freezer_busy();
    bool still = still_asked != 0 && !freezer_busy();
    if (gate)
        say_gated();
    if (freeze)
        say_frozen(freezer_error());
    if (thaw)
        say_thawed();
    if (still)
        say_still(guard_hold(still_asked));
    gate_asked &= !gate;
    freeze_asked &= !freeze;
    thaw_asked &= !thaw;
    still_asked = still ? 0 : still_asked;
    return gate || freeze || thaw || still;
}

static void take_gate(const struct frame *frame)
{
    uint64_t began = monotonic_ns();
    const char *what = NULL;
    int error = gate_pass(frame->payload, &what);
    gate_asked = error == 0;
    if (error != 0)
        say_failed(FRAME_GATED, error, what, began);
}

/* A GATE whose hooks still run comes to nothing. */
static void take_seal(void)
{
    if (gate_asked)
        say_failed(FRAME_GATED, ECANCELED, "gate", monotonic_ns());
    gate_asked = false;
    gate_seal();
    processes_forget_plain();
    answer(FRAME_SEALED, (struct span){NULL, 0});
}

static void take_freeze(uint32_t ttl_ms)
{
    uint64_t now = monotonic_ns();
    bool in_range = ttl_ms >= 1 && ttl_ms <= FREEZE_MS_MAX;
    int error = freeze_asked ? EBUSY : in_range ? freezer_freeze(ttl_ms) : EPROTO;
    if (error != 0) {
        say_failed(FRAME_FROZEN, error, "freeze", now);
        return;
    }
    freeze_asked = true;
    freeze_began = now;
}

static void take_still(uint32_t ttl_ms)
{
    if (ttl_ms >= 1 && ttl_ms <= GUARD_MS_MAX)
        still_asked = ttl_ms;
    else
        say_still(EPROTO);
}

static void take_session_frame(const struct frame *frame)
{
    if (frame->type == FRAME_HELLO) {
        take_hello(frame);
    } else if (frame->type == FRAME_GATE) {
        take_gate(frame);
    } else if (frame->type == FRAME_PING) {
        answer(FRAME_PONG, frame->payload);
    } else if (frame->type == FRAME_SEAL) {
        take_seal();
    } else if (frame->type == FRAME_FREEZE) {
        take_freeze(load32(frame->payload.data));
    } else if (frame->type == FRAME_STILL) {
        take_still(load32(frame->payload.data));
    } else if (frame->type == FRAME_GO) {
        guard_release();
        freezer_thaw();
    } else {
        freezer_thaw();
        thaw_asked = true;
    }
    answer_due();
}

static void start(struct stream *stream, const struct operation_kind *kind, const struct fields *fields)
{
    if (kind->run != NULL)
        worker_start(stream, kind, fields);
    else if (stream->operation == OP_EXEC)
        follow_exec(stream, fields);
    else if (stream->operation == OP_ATTACH)
        follow_attach(stream, fields);
    else if (stream->operation == OP_KILL)
        kill_process(stream, fields);
    else if (stream->operation == OP_INPUT)
        feed_open(stream, fields);
    else if (stream->operation == OP_DIAL)
        dial_open(stream, fields);
}

/* A stream that cannot be: told so without ever becoming one. */
static void refuse(uint32_t id, int error, const char *what)
{
    struct stream none = {.id = id, .talk = END_CLOSED, .source = END_CLOSED, .sink = END_CLOSED};
    stream_done(&none, error, what);
}

static void take_open(const struct frame *frame)
{
    struct fields fields;
    uint8_t operation = frame->payload.data[0];
    const struct operation_kind *kind = operation_kind(operation);
    struct span payload = {frame->payload.data + 1, frame->payload.size - 1};
    if (!gate_is_open()) {
        refuse(frame->stream, ESHUTDOWN, "the gate is closed");
        return;
    }
    if (kind == NULL || !fields_parse(payload, kind->rules, kind->count, &fields) ||
        !operation_fits(operation, &fields)) {
        refuse(frame->stream, EPROTO, "open");
        return;
    }
    struct stream *stream = stream_open(frame->stream, (enum operation)operation);
    if (stream == NULL)
        refuse(frame->stream, EAGAIN, "too many streams");
    else
        start(stream, kind, &fields);
}

static void take_close(struct stream *stream, uint8_t mode)
{
    if (stream->process != NULL && mode == CLOSE_KILL)
        process_signal(stream->process, SIGKILL);
    worker_stop(stream);
    stream_done(stream, ECANCELED, "closed");
}

static bool take_credit(struct stream *stream, uint32_t bytes)
{
    stream->credit += bytes;
    return true;
}

static bool take_resize(const struct stream *stream, struct span payload)
{
    uint16_t rows = load16(payload.data);
    uint16_t columns = load16(payload.data + 2);
    if (rows == 0 || columns == 0)
        return false;
    if (stream->process != NULL)
        process_resize(stream->process, rows, columns);
    return true;
}

static bool take_signal(const struct stream *stream, uint8_t number)
{
    if (number < 1 || number > 64)
        return false;
    if (stream->process != NULL)
        process_signal(stream->process, number);
    return true;
}

/* False when the frame breaks the protocol on its stream. */
static bool take_stream_frame(struct stream *stream, const struct frame *frame)
{
    struct span payload = frame->payload;
    switch (frame->type) {
    case FRAME_DATA:
        return payload.data[0] == CHANNEL_IN &&
               stream_take_input(stream, (struct span){payload.data + 1, payload.size - 1});
    case FRAME_EOF:
        return payload.data[0] == CHANNEL_IN && stream_take_end(stream);
    case FRAME_CREDIT:
        return take_credit(stream, load32(payload.data));
    case FRAME_RESIZE:
        return take_resize(stream, payload);
    case FRAME_SIGNAL:
        return take_signal(stream, payload.data[0]);
    default:
        if (payload.data[0] > CLOSE_KILL)
            return false;
        take_close(stream, payload.data[0]);
        return true;
    }
}

/* False when the frame breaks the session. */
static bool take_frame(const struct frame *frame)
{
    if (frame->stream == 0) {
        take_session_frame(frame);
        return true;
    }
    struct stream *stream = stream_find(frame->stream);
    if (frame->type == FRAME_OPEN) {
        if (stream == NULL)
            take_open(frame);
        return stream == NULL;
    }
    if (stream != NULL && !take_stream_frame(stream, frame)) {
        worker_stop(stream);
        stream_done(stream, EPROTO, "stream");
    }
    return true;
}

static bool is_full(void)
{
    return link_queued() >= LINK_FULL;
}

/* How many leading bytes are dealt with: whole frames, or what stands before a HELLO while none is welcomed. */
static size_t take(struct span bytes)
{
    size_t taken = 0;
    while (!is_full()) {
        struct frame frame;
        struct span rest = {bytes.data + taken, bytes.size - taken};
        if (!welcomed)
            taken += frame_find_hello(rest);
        rest = (struct span){bytes.data + taken, bytes.size - taken};
        enum frame_state state = frame_parse(rest, &frame);
        if (state == FRAME_PARTIAL)
            break;
        if (state == FRAME_READY && take_frame(&frame)) {
            taken += frame.whole;
            continue;
        }
        reset();
        taken++;
    }
    return taken;
}

const struct link_reader session_reader = {.take = take, .full = is_full, .lost = reset};

/* Sends what is due on a stream, at most one frame with content. */
static bool speak(struct stream *stream)
{
    bool allowed = stream_allow(stream);
    if (stream->operation == OP_PROCESSES)
        return tell_processes_turn(stream);
    if (stream->operation == OP_INPUT)
        return feed_turn(stream) || allowed;
    if (stream->operation == OP_DIAL)
        return dial_turn(stream) || allowed;
    return (stream->process != NULL ? follow_turn(stream) : worker_turn(stream)) || allowed;
}

/* Lets the streams of the slots from `from` to `to` speak, if the gate is open. The first one that finds no room is the
 * first to speak the next time, so that none is passed over for ever. */
static bool let_speak(size_t from, size_t to, bool *full)
{
    bool moved = false;
    size_t at = from;
    for (struct stream *stream; (stream = stream_next(&at)) != NULL && at <= to;) {
        moved |= stream_feed(stream);
        if (!gate_is_open())
            continue;
        if (link_queued() < LINK_BUSY) {
            moved |= speak(stream);
        } else if (!*full) {
            *full = true;
            first = at - 1;
        }
    }
    return moved;
}

bool session_turn(void)
{
    bool full = false;
    size_t start = first;
    bool moved = answer_due() | let_speak(start, STREAMS_MAX, &full);
    return let_speak(0, start, &full) || moved;
}
