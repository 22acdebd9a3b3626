#include "follow.h"

#include <errno.h>

#include "clock.h"
#include "link.h"

static void follow(struct stream *stream, struct process *process)
{
    stream->process = process;
    stream->takes_input = process_takes_input(process);
    stream->closes_input = true;
    process->readers++;
}

void follow_exec(struct stream *stream, const struct fields *fields)
{
    struct process *process = process_start(fields);
    if (process == NULL)
        stream_done(stream, errno, "cannot start");
    else
        follow(stream, process);
}

void follow_attach(struct stream *stream, const struct fields *fields)
{
    struct process *process = process_find(fields->value[TAG_PROCESS_ID]);
    if (process == NULL || process->state == PROCESS_FAILED) {
        stream_done(stream, ESRCH, "no such process");
        return;
    }
    follow(stream, process);
    stream->quiet = fields_flag(fields, TAG_QUIET);
    stream->position = stream->quiet ? NEVER : replay_oldest(&process->replay);
    stream->until = process->replay.written;
}

/* To who comes back: where the output that follows begins, how much of it is old, and how large the terminal is. */
static void put_place(struct writer *payload, const struct stream *stream)
{
    uint16_t rows, columns;
    put_number(payload, TAG_OFFSET, stream->position);
    put_number(payload, TAG_SIZE, stream->until - stream->position);
    if (process_size(stream->process, &rows, &columns)) {
        put_number(payload, TAG_ROWS, rows);
        put_number(payload, TAG_COLS, columns);
    }
}

static void say_opened(struct stream *stream)
{
    struct writer payload = link_begin();
    put_number(&payload, TAG_PID, (uint64_t)stream->process->pid);
    put_number(&payload, TAG_STDIN, stream->takes_input);
    if (stream->operation == OP_ATTACH && !stream->quiet)
        put_place(&payload, stream);
    link_end(&payload, FRAME_OPENED, stream->id);
    stream->opened = true;
}

static void say_failed(struct stream *stream)
{
    struct writer payload = link_begin();
    put_bytes(&payload, stream->process->failure, stream->process->failure_size);
    link_end(&payload, FRAME_DONE, stream->id);
    stream_forget(stream);
}

static void say_ended(struct stream *stream)
{
    const struct process *process = stream->process;
    struct writer payload = link_begin();
    put_number(&payload, TAG_ERRNO, 0);
    put_number(&payload, TAG_EXIT_CODE, (uint64_t)process->exit_code);
    put_number(&payload, TAG_DURATION_US, process->duration_us);
    put_number(&payload, TAG_TIMED_OUT, process->timed_out);
    link_end(&payload, FRAME_DONE, stream->id);
    stream_forget(stream);
}

static bool say_output(struct stream *stream)
{
    size_t allowed = stream_allowance(stream);
    if (stream->quiet || stream->position == stream->process->replay.written || allowed == 0)
        return false;
    struct writer payload = link_begin();
    int channel;
    size_t size = replay_copy(&stream->process->replay, stream->position, payload.data + 1, allowed, &channel);
    payload.data[0] = (uint8_t)channel;
    payload.size = size + 1;
    link_end(&payload, FRAME_DATA, stream->id);
    stream->position += size;
    stream->credit -= size;
    return true;
}

/* A follower without output waits for nothing but the end. */
static bool is_over(const struct stream *stream)
{
    const struct process *process = stream->process;
    if (stream->quiet)
        return process->state == PROCESS_ENDED;
    return process->settled && stream->position >= process->final && stream->position >= stream->until;
}

bool follow_turn(struct stream *stream)
{
    const struct process *process = stream->process;
    if (process->state == PROCESS_STARTING)
        return false;
    if (process->state == PROCESS_FAILED) {
        say_failed(stream);
        return true;
    }
    if (!stream->opened) {
        say_opened(stream);
        return true;
    }
    if (is_over(stream)) {
        say_ended(stream);
        return true;
    }
    return say_output(stream);
}

static void put_process(struct writer *payload, const struct process *process)
{
    bool running = process->state == PROCESS_STARTING || process->state == PROCESS_RUNNING;
    size_t item = put_open(payload, TAG_ITEM);
    put_field(payload, TAG_PROCESS_ID, process->id, process->id_size);
    put_number(payload, TAG_PID, (uint64_t)process->pid);
    put_field(payload, TAG_COMMAND, process->command, process->command_size);
    put_number(payload, TAG_STARTED_NS, process->started_ns);
    put_number(payload, TAG_RUNNING, running);
    if (!running)
        put_number(payload, TAG_EXIT_CODE, (uint64_t)process->exit_code);
    put_number(payload, TAG_TTY, process->terminal);
    put_number(payload, TAG_STDIN, process_takes_input(process));
    put_close(payload, item);
}

bool tell_processes_turn(struct stream *stream)
{
    struct writer payload = link_begin();
    struct process *process = NULL;
    while (payload.size < LINK_PAYLOAD / 2 && (process = process_next(&stream->item)) != NULL)
        if (process->state != PROCESS_FAILED)
            put_process(&payload, process);
    if (payload.size > 0)
        link_end(&payload, FRAME_ITEMS, stream->id);
    if (process == NULL)
        stream_done(stream, 0, NULL);
    return true;
}

void kill_process(struct stream *stream, const struct fields *fields)
{
    const struct process *process = process_find(fields->value[TAG_PROCESS_ID]);
    int number = (int)fields_number(fields, TAG_SIGNAL_NUMBER, 0);
    bool sent = process != NULL && process_signal(process, number);
    stream_done(stream, sent ? 0 : process == NULL ? ESRCH : errno, "kill");
}
