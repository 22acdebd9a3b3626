#include "reach.h"

#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define DEVICE "eth0"

static int open_socket(int family)
{
    int on = 1;
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

static bool device_address(int fd, struct sockaddr_in *address)
{
    struct ifreq asked = {.ifr_name = DEVICE};
    if (ioctl(fd, SIOCGIFADDR, &asked) != 0)
        return false;
    memcpy(&address->sin_addr, &((struct sockaddr_in *)&asked.ifr_addr)->sin_addr, sizeof address->sin_addr);
    return true;
}

static bool begin(int fd, enum way way, uint16_t port)
{
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    struct sockaddr_in four = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (way == WAY_LOOPBACK6)
        return connect(fd, (struct sockaddr *)&six, sizeof six) == 0 || errno == EINPROGRESS;
    if (way == WAY_DEVICE && !device_address(fd, &four))
        return false;
    return connect(fd, (struct sockaddr *)&four, sizeof four) == 0 || errno == EINPROGRESS;
}

int reach(enum way way, uint16_t port)
{
    int fd = open_socket(way == WAY_LOOPBACK6 ? AF_INET6 : AF_INET);
    if (fd < 0 || begin(fd, way, port))
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

int reach_outcome(int fd)
{
    struct sockaddr_storage peer;
    socklen_t size = sizeof peer;
    int error = 0;
    socklen_t width = sizeof error;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &width) != 0)
        return errno;
    if (error != 0)
        return error;
    return getpeername(fd, (struct sockaddr *)&peer, &size) == 0 ? 0 : errno == ENOTCONN ? EINPROGRESS : errno;
}
