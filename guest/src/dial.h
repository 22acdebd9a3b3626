/* DIAL: streams that are connections to the machine's own ports. */
#ifndef DIAL_H
#define DIAL_H

#include "stream.h"

void dial_open(struct stream *stream, const struct fields *fields);

/* How much of the host's bytes the service took; one that is gone takes everything. */
size_t dial_write(struct stream *stream, struct span bytes);

/* The host sends no more. */
void dial_end(struct stream *stream);

/* The connection is over for the service, whatever children still hold of it. */
void dial_hang_up(const struct stream *stream);

/* Sends the next frame that is due. True when there was one. */
bool dial_turn(struct stream *stream);

/* When the first connection that is being made is given up; NEVER when none is. */
uint64_t dials_deadline(void);
void dials_expire(void);

#endif
