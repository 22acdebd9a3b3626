/* The streams of a session: what each does, and how much each side may still send on it. */
#ifndef STREAM_H
#define STREAM_H

#include "end.h"
#include "process.h"

/* Connections have slots of their own: as many as there may be leave the others all of theirs. */
#define DIALS_MAX 256
#define OTHERS_MAX 128
#define STREAMS_MAX (DIALS_MAX + OTHERS_MAX)

struct stream {
    uint32_t id; /* 0: the slot is free */
    enum operation operation;
    bool opened;          /* OPENED is sent */
    bool takes_input;
    bool closes_input;    /* the end of its input is that of the process's, too */
    bool input_ended;     /* the host sent EOF 0 */
    bool input_closed;    /* and that was passed on */
    bool input_lost;      /* some of it found no process that takes it */
    bool quiet;           /* follows the process without its output */
    uint64_t credit;      /* DATA bytes that the host still allows us */
    uint32_t window;      /* DATA bytes that we still allow the host */
    uint32_t owed;        /* taken off the host's hands and not allowed again yet */
    size_t input_start;   /* input that its receiver has not taken yet: a ring */
    size_t input_size;
    struct process *process; /* EXEC, ATTACH: the one it follows; INPUT: the one it feeds */
    uint64_t position;       /* the next byte of its output to send; NEVER when none is wanted */
    uint64_t until;          /* once it has ended and settled: DONE comes behind this position. DIAL: see below */
    size_t item;             /* PROCESSES: the next one to tell */
    /* A file operation: */
    pid_t worker;        /* 0 once reaped */
    struct end talk;     /* OPENED, ITEMS and DONE come from here */
    struct end source;   /* content to the host */
    struct end sink;     /* content from the host */
    bool source_ended;   /* EOF 1 is due or sent */
    /* DIAL: `source` is the connection, both ways, and `until` the time at which making it is given up. */
    uint16_t port;
    uint8_t way;         /* the next one to try */
    int failure;         /* why the first one came to nothing */
};

void streams_open(void);

/* A free slot, made a stream of that id; NULL when all of its kind are taken. */
struct stream *stream_open(uint32_t id, enum operation operation);

/* The open stream of that id, or NULL. */
struct stream *stream_find(uint32_t id);

/* The open stream behind `at`, which starts at 0 and is moved on; NULL at the end. */
struct stream *stream_next(size_t *at);

/* Says DONE and forgets the stream. `what` may be NULL when nothing failed. */
void stream_done(struct stream *stream, int error, const char *what);

/* DONE has been said otherwise, or nobody is to hear it: the stream is forgotten, with its worker's ends closed. */
void stream_forget(struct stream *stream);

/* DATA 0 and EOF 0 of the host. False when it had no right to send it. */
bool stream_take_input(struct stream *stream, struct span bytes);
bool stream_take_end(struct stream *stream);

/* Passes waiting input on, as far as it is taken. True when something moved. */
bool stream_feed(struct stream *stream);

/* Allows the host more once a good part of its window is used up. */
bool stream_allow(struct stream *stream);

/* How many bytes of content may go out on it now in one frame. */
size_t stream_allowance(const struct stream *stream);

/* The oldest byte of a process's output that a stream still has to send. */
uint64_t streams_slowest(const struct process *process);

/* A worker was reaped. False when no stream had it. */
bool stream_reaped(pid_t pid);

#endif
