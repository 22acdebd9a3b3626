/* The processes that the host started: running, or ended and remembered. They outlive the streams that follow them. */
#ifndef PROCESS_H
#define PROCESS_H

#include "end.h"
#include "replay.h"
#include "fields.h"

#define PROCESSES_MAX 256
#define PROCESS_ID_MAX 64
#define COMMAND_MAX 256

enum process_state {
    PROCESS_FREE,
    PROCESS_STARTING, /* forked; whether the program could be run is not known yet */
    PROCESS_FAILED,   /* it could not: `failure` says why */
    PROCESS_RUNNING,
    PROCESS_ENDED
};

struct process {
    enum process_state state;
    pid_t pid; /* also its session and process group */
    bool terminal;
    bool fed; /* was given an input to read: a pipe or the terminal */
    bool detached;
    bool timed_out;
    bool settled; /* ended, and what it had written before is in `replay`, up to `final` */
    int exit_code;
    unsigned readers;       /* streams that follow it */
    uint64_t started_ns;    /* wall clock */
    uint64_t began;         /* monotonic */
    uint64_t deadline;      /* monotonic; NEVER */
    uint64_t duration_us;
    uint64_t end_number;    /* counts the ends of all processes: the order of forgetting */
    struct end talk;        /* until it runs */
    struct end output[2];   /* standard output or the terminal; standard error */
    struct end input;       /* standard input, a pipe */
    size_t left[2];         /* ended: bytes still in the pipe that it had written before */
    size_t id_size;
    size_t command_size;
    size_t failure_size;
    uint8_t id[PROCESS_ID_MAX];
    uint8_t command[COMMAND_MAX];
    uint8_t failure[600]; /* the payload of the DONE that tells it */
    uint64_t final;
    struct replay replay;
};

void processes_open(void);

/* Looks a process up by the host's name for it. NULL when there is none. */
struct process *process_find(struct span id);

/* The process behind `at`, which starts at 0 and is moved on; NULL at the end. */
struct process *process_next(size_t *at);

/* Starts what the fields of an EXEC ask for. NULL with errno, and then nothing is left of it. */
struct process *process_start(const struct fields *fields);

/* Forgets those that have ended, were not detached and are read by nobody. */
void processes_forget_plain(void);

/* Sends a signal to the group of a process that has not ended. False with errno. */
bool process_signal(const struct process *process, int number);

/* Sets the size of its terminal; nothing without one. */
void process_resize(const struct process *process, uint16_t rows, uint16_t columns);

/* The size of its terminal. False without one, or when it is closed. */
bool process_size(const struct process *process, uint16_t *rows, uint16_t *columns);

/* Whether it runs and its input is open. */
bool process_takes_input(const struct process *process);

/* Gives input to it as far as it takes it now; what a closed input would lose counts as taken. */
size_t process_write(struct process *process, struct span bytes);
void process_end_input(struct process *process);

/* Kills what has run too long, with all that descends from it; reaps `pid`'s slot with the status of wait(2). False
 * when `pid` is none of these. */
void processes_expire(void);
bool process_reaped(pid_t pid, int status);
uint64_t processes_deadline(void);

/* Moves output into the replay buffers. `slowest` tells from where on the readers of a process still need its bytes. */
bool processes_drain(uint64_t (*slowest)(const struct process *process));

/* Forgets a process that failed to start and that no stream asks about any more. */
void process_let_go(struct process *process);

#endif
