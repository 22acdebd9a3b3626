/* The host's way to an agent without virtio port: a socket between a machine and whoever runs it. */
#ifndef VSOCK_H
#define VSOCK_H

#include <stdbool.h>

#define VSOCK_PORT 1024u

/* Whether the machine has the device; the driver alone does not mean that. */
bool vsock_is_there(void);

/* Listens at `port` for the host; -1 and errno when this machine has no vsock. */
int vsock_listen(unsigned int port);

#endif
