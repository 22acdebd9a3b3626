/* Forked children: whatever may block on a path or needs a user's rights happens in one of them. */
#ifndef CHILD_H
#define CHILD_H

#include <poll.h>
#include <stdbool.h>
#include <sys/types.h>

#include "fields.h"

/* fork(2). The child gets default signals back. */
pid_t child_fork(void);

/* Blocks every signal of the agent, for good: a signalfd tells of those that matter. */
void child_block_signals(void);

/* The agent's and the child's end of a talk: whole messages, a frame type and a payload each. */
bool talk_open(int ends[2]);

/* One waiting message into `payload` (`size` becomes its length). 0 when the child closed, -1 with errno. */
ssize_t talk_receive(int talk, uint8_t *type, struct writer *payload);

/* The child's half. A message longer than LINK_PAYLOAD does not exist. A child whose agent is gone ends. */
void answer_through(int talk);
struct writer answer_begin(void);
void answer_send(enum frame_type type, const struct writer *payload);

/* DONE with an errno (0 = fine) and, for an error, "<what>: <strerror>"; the child ends. */
_Noreturn void answer_done(int error, const char *what);

/* Blocks until the agent says "commit" (true) or is gone or said nothing (false). */
bool answer_committed(void);

/* What poll(2) has to be given to see the agent go. */
struct pollfd answer_listener(void);

void talk_commit(int talk);

#endif
