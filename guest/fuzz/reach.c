/* Connections that lead nowhere: the first way is refused, the second one is made and hung up at its far end. */
#include "reach.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

int reach(enum way way, uint16_t port)
{
    int ends[2];
    errno = ECONNREFUSED;
    if (way == WAY_LOOPBACK || port == 1 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0)
        return -1;
    close(ends[1]);
    return ends[0];
}

int reach_outcome(int fd)
{
    (void)fd;
    return 0;
}
