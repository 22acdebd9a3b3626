/* EXEC and ATTACH: streams that follow a process. */
#ifndef FOLLOW_H
#define FOLLOW_H

#include "stream.h"

void follow_exec(struct stream *stream, const struct fields *fields);
void follow_attach(struct stream *stream, const struct fields *fields);

/* Sends the next frame that is due. True when there was one. */
bool follow_turn(struct stream *stream);

/* PROCESSES: sends the next part of the list, or all of it with DONE. */
bool tell_processes_turn(struct stream *stream);

/* KILL: done at once. */
void kill_process(struct stream *stream, const struct fields *fields);

#endif
