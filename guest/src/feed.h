/* INPUT: streams that feed a process and do not follow it. */
#ifndef FEED_H
#define FEED_H

#include "stream.h"

void feed_open(struct stream *stream, const struct fields *fields);

/* Says what is due: that input is taken, that all of it was, or that there is nobody to take it. True when there was
 * something to say. */
bool feed_turn(struct stream *stream);

#endif
