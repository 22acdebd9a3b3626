/* Streams whose operation runs in a worker: a forked child with the asked user's rights. */
#ifndef WORKER_H
#define WORKER_H

#include "operation.h"
#include "stream.h"

/* Forks the worker; the stream is done with an errno when that cannot be. */
void worker_start(struct stream *stream, const struct operation_kind *kind, const struct fields *fields);

/* Relays the next frame that is due. True when there was one. */
bool worker_turn(struct stream *stream);

/* Asks the worker to stop: what it was writing leaves no trace. */
void worker_stop(const struct stream *stream);

#endif
