#include "link.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "console.h"
#include "end.h"
#include "farewell.h"
#include "frame.h"
#include "memory.h"

#define READ_SIZE (64u * 1024)
#define QUEUE_SIZE (256u * 1024)
#define PARTIAL_PATIENCE NS_PER_S
#define PORT_PATIENCE (200 * NS_PER_MS)

enum kind { PORT, DESCRIPTOR, LISTENER };

static enum kind kind;
static struct end listener = {.fd = -1};
static struct end line = {.fd = -1};

/* Bytes that are not dealt with yet; the one behind them lets a child end the last string of a frame in place. */
static uint8_t input[FRAME_WHOLE_MAX + READ_SIZE + 1];
static size_t input_size;
static uint64_t input_until = NEVER; /* when to give up a partial frame, should it not grow */

static PAGE_ALIGNED uint8_t queue[QUEUE_SIZE];
static size_t queue_head;
static size_t queue_tail;

static bool line_stuck;           /* the last write found no room, and is worth repeating */
static bool line_stirred;         /* once an event has come */
static bool line_up;              /* bytes came since the last loss */
static uint64_t retry_at = NEVER; /* when to look at a port without host again, should its event be missed */

static void forget_bytes(void)
{
    input_size = 0;
    input_until = NEVER;
    queue_head = queue_tail = 0;
}

static void line_open(int fd)
{
    line = (struct end){.fd = fd, .bell = &line_stirred};
    if (fcntl(fd, F_SETFL, O_NONBLOCK | fcntl(fd, F_GETFL)) < 0 || !end_watch(&line, EPOLLIN | EPOLLRDHUP))
        give_up("watch the link", errno);
    line.ready = true;
    line_stuck = false;
    forget_bytes();
}

static void open_as(enum kind asked, int fd)
{
    memory_keep_from_children(queue, sizeof queue);
    kind = asked;
    if (kind != LISTENER) {
        line_open(fd);
        return;
    }
    listener = (struct end){.fd = fd};
    if (!end_watch(&listener, EPOLLIN))
        give_up("watch the socket", errno);
    listener.ready = true;
}

void link_open_port(int fd)
{
    open_as(PORT, fd);
}

void link_open_descriptor(int fd)
{
    open_as(DESCRIPTOR, fd);
}

void link_open_listener(int fd)
{
    open_as(LISTENER, fd);
}

static void line_lost(const struct link_reader *reader)
{
    forget_bytes();
    if (line_up)
        reader->lost();
    line_up = false;
    retry_at = kind == PORT ? monotonic_ns() + PORT_PATIENCE : NEVER;
    if (kind == DESCRIPTOR)
        farewell();
    if (kind == LISTENER)
        end_close(&line);
}

static bool accept_next(void)
{
    int fd = accept4(listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) {
        line_open(fd);
        return true;
    }
    if (errno == EAGAIN)
        listener.ready = false;
    else if (errno != ECONNABORTED && errno != EINTR)
        give_up("accept", errno);
    return false;
}

/* What is left then is part of a frame, unless the reader is full: whole frames may wait for as long as they must. */
static void hand_over(const struct link_reader *reader, bool grew)
{
    size_t taken = reader->take((struct span){input, input_size});
    input_size -= taken;
    if (taken > 0 && input_size > 0)
        memmove(input, input + taken, input_size);
    if (input_size == 0 || reader->full())
        input_until = NEVER;
    else if (grew || taken > 0 || input_until == NEVER)
        input_until = monotonic_ns() + PARTIAL_PATIENCE;
}

/* A port says "no host" by 0 as a socket says "closed"; both mean that the frames of before are void. */
static bool read_once(const struct link_reader *reader)
{
    struct iovec into = {input + input_size, smaller(READ_SIZE, sizeof input - 1 - input_size)};
    /* A port gives one buffer of the host a read, so a short read does not mean that it is empty. */
    ssize_t got = kind == PORT ? read(line.fd, into.iov_base, into.iov_len) : end_read(&line, &into, 1);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        line.ready = errno == EINTR;
        return line.ready;
    }
    if (got <= 0) {
        line.ready = false;
        line_lost(reader);
        return kind == LISTENER;
    }
    line_up = true;
    input_size += (size_t)got;
    hand_over(reader, true);
    return true;
}

static void look_at_deadlines(const struct link_reader *reader)
{
    if (link_deadline() == NEVER || line.ready || monotonic_ns() < link_deadline())
        return;
    if (input_until != NEVER) {
        input_size = 0;
        input_until = NEVER;
        reader->lost();
    }
    line.ready = true;
    retry_at = NEVER;
}

bool link_receive(const struct link_reader *reader)
{
    if (line.fd < 0 && !(listener.ready && accept_next()))
        return false;
    if (reader->full())
        return false;
    if (input_size > 0)
        hand_over(reader, false);
    look_at_deadlines(reader);
    return line.ready && read_once(reader);
}

uint64_t link_deadline(void)
{
    return input_until < retry_at ? input_until : retry_at;
}

/* Room is worth an event only while it is missed: else each answer that the host takes would wake the agent. */
static void set_stuck(bool stuck)
{
    if (stuck != line_stuck && !end_change(&line, stuck ? EPOLLIN | EPOLLRDHUP | EPOLLOUT : EPOLLIN | EPOLLRDHUP))
        give_up("watch the link", errno);
    line_stuck = stuck;
}

bool link_flush(void)
{
    if (queue_head == queue_tail || line.fd < 0 || (line_stuck && !line_stirred))
        return false;
    line_stirred = false;
    ssize_t sent = write(line.fd, queue + queue_head, queue_tail - queue_head);
    set_stuck(sent < 0);
    if (sent < 0)
        return false;
    queue_head += (size_t)sent;
    if (queue_head == queue_tail)
        queue_head = queue_tail = 0;
    return true;
}

void link_discard(void)
{
    queue_head = queue_tail = 0;
}

size_t link_queued(void)
{
    return queue_tail - queue_head;
}

struct writer link_begin(void)
{
    if (sizeof queue - queue_tail < FRAME_HEAD + LINK_PAYLOAD) {
        memmove(queue, queue + queue_head, link_queued());
        queue_tail -= queue_head;
        queue_head = 0;
    }
    return (struct writer){.data = queue + queue_tail + FRAME_HEAD, .room = LINK_PAYLOAD};
}

void link_end(const struct writer *payload, enum frame_type type, uint32_t stream)
{
    uint8_t *head = queue + queue_tail;
    store32(head, (uint32_t)(FRAME_LENGTH_MIN + payload->size));
    head[4] = (uint8_t)type;
    store32(head + 5, stream);
    queue_tail += FRAME_HEAD + payload->size;
}
