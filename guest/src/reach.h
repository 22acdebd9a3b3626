/* Connections to the machine's own services. Apart from the rest, so that fuzzing connects to nothing. */
#ifndef REACH_H
#define REACH_H

#include <stdint.h>

/* Whom to ask at, in this order. */
enum way { WAY_LOOPBACK, WAY_LOOPBACK6, WAY_DEVICE, WAY_LIMIT };

/* A socket that connects to a port of this machine, or has: non-blocking, not inherited. -1 with errno. */
int reach(enum way way, uint16_t port);

/* 0 once it is connected, EINPROGRESS while it is not yet, else why it never will be. */
int reach_outcome(int fd);

#endif
