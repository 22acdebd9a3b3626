#include "feed.h"

#include <errno.h>

#include "clock.h"
#include "link.h"

void feed_open(struct stream *stream, const struct fields *fields)
{
    struct process *process = process_find(fields->value[TAG_PROCESS_ID]);
    if (process == NULL || process->state == PROCESS_FAILED) {
        stream_done(stream, ESRCH, "no such process");
        return;
    }
    if (!process->fed) {
        stream_done(stream, EBADF, "standard input");
        return;
    }
    stream->process = process;
    stream->position = NEVER;
    stream->takes_input = true;
    stream->closes_input = fields_flag(fields, TAG_LAST);
    process->readers++;
}

static void say_opened(struct stream *stream)
{
    struct writer payload = link_begin();
    link_end(&payload, FRAME_OPENED, stream->id);
    stream->opened = true;
}

/* Once its end was passed on, all of it was: what becomes of the process later is no matter of this stream. */
bool feed_turn(struct stream *stream)
{
    if (stream->input_lost || (!stream->input_closed && !process_takes_input(stream->process)))
        stream_done(stream, EPIPE, "standard input");
    else if (!stream->opened)
        say_opened(stream);
    else if (stream->input_closed)
        stream_done(stream, 0, NULL);
    else
        return false;
    return true;
}
