#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "child.h"
#include "link.h"
#include "user.h"

/* What the worker gets: its end of the talk and of the content pipe. */
struct desk {
    int talk;
    int content;
};

static bool lay_content(struct stream *stream, enum content content, struct desk *desk)
{
    int ends[2];
    if (content == CONTENT_NONE)
        return true;
    if (pipe2(ends, O_CLOEXEC) != 0)
        return false;
    int ours = content == CONTENT_OUT ? 0 : 1;
    desk->content = ends[1 - ours];
    fcntl(ends[ours], F_SETFL, O_NONBLOCK);
    if (content == CONTENT_OUT)
        return end_open(&stream->source, ends[ours], NULL);
    stream->sink.fd = ends[ours];
    return true;
}

static bool lay_desk(struct stream *stream, enum content content, struct desk *desk)
{
    int ends[2];
    if (!talk_open(ends))
        return false;
    desk->talk = ends[1];
    return end_open(&stream->talk, ends[0], NULL) && lay_content(stream, content, desk);
}

static void close_desk(const struct desk *desk)
{
    if (desk->talk >= 0)
        close(desk->talk);
    if (desk->content >= 0)
        close(desk->content);
}

/* A slash at the end would make the system calls follow a link that is meant itself. */
static void check_path(const struct fields *fields, enum tag tag)
{
    char *path = fields_string(fields, tag);
    if (path == NULL)
        return;
    if (path[0] != '/')
        answer_done(EINVAL, "a path that is not absolute");
    for (char *end = path + strlen(path); end > path + 1 && end[-1] == '/';)
        *--end = '\0';
}

/* The agent's ends are closed: else the worker would keep its own pipe open and never see an end. */
static _Noreturn void work(struct stream *stream, job *run, const struct fields *fields, const struct desk *desk)
{
    struct user user;
    end_close(&stream->talk);
    end_close(&stream->source);
    end_close(&stream->sink);
    answer_through(desk->talk);
    if (fields_has(fields, TAG_USER)) {
        if (!user_find(fields->value[TAG_USER], &user))
            answer_done(EINVAL, "no such user");
        if (!user_become(&user))
            answer_done(errno, "become the user");
    }
    fields_end_strings(fields);
    check_path(fields, TAG_PATH);
    check_path(fields, TAG_TARGET);
    run(fields, desk->content);
    answer_done(0, NULL);
}

void worker_start(struct stream *stream, const struct operation_kind *kind, const struct fields *fields)
{
    struct desk desk = {-1, -1};
    pid_t pid = lay_desk(stream, kind->content, &desk) ? child_fork() : -1;
    if (pid == 0)
        work(stream, kind->run, fields, &desk);
    int error = errno;
    close_desk(&desk);
    if (pid < 0) {
        stream_done(stream, error, "cannot start");
        return;
    }
    stream->worker = pid;
    stream->takes_input = kind->content == CONTENT_IN;
    stream->source_ended = kind->content != CONTENT_OUT;
}

void worker_stop(const struct stream *stream)
{
    if (stream->worker > 0)
        kill(stream->worker, SIGTERM);
}

static bool relay_message(struct stream *stream)
{
    uint8_t type;
    struct writer payload = link_begin();
    ssize_t got = talk_receive(stream->talk.fd, &type, &payload);
    if (got < 0 && errno == EAGAIN) {
        stream->talk.ready = false;
        return false;
    }
    if (got <= 0 || (type != FRAME_OPENED && type != FRAME_ITEMS && type != FRAME_DONE)) {
        stream_done(stream, EIO, "the worker died");
        return true;
    }
    link_end(&payload, type, stream->id);
    if (type == FRAME_OPENED)
        stream->opened = true;
    if (type == FRAME_DONE)
        stream_forget(stream);
    return true;
}

static void say_source_ended(struct stream *stream)
{
    struct writer payload = link_begin();
    put_byte(&payload, CHANNEL_OUT);
    link_end(&payload, FRAME_EOF, stream->id);
    end_close(&stream->source);
    stream->source_ended = true;
}

static bool relay_content(struct stream *stream)
{
    size_t allowed = stream_allowance(stream);
    if (allowed == 0)
        return false;
    struct writer payload = link_begin();
    struct iovec into = {payload.data + 1, allowed};
    ssize_t got = end_read(&stream->source, &into, 1);
    if (got < 0 && errno == EAGAIN)
        return false;
    if (got <= 0) {
        say_source_ended(stream);
        return true;
    }
    payload.data[0] = CHANNEL_OUT;
    payload.size = (size_t)got + 1;
    link_end(&payload, FRAME_DATA, stream->id);
    stream->credit -= (uint64_t)got;
    return true;
}

/* The order on the wire: OPENED, content and its end, then DONE. */
bool worker_turn(struct stream *stream)
{
    if (stream->opened && !stream->source_ended)
        return stream->source.ready && relay_content(stream);
    return stream->talk.ready && relay_message(stream);
}
