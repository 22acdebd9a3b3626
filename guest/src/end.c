#include "end.h"

#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "console.h"

#define EVENTS_AT_ONCE 64

static int poll_set(void)
{
    static int set = -1;
    if (set < 0)
        set = epoll_create1(EPOLL_CLOEXEC);
    if (set < 0)
        give_up("epoll_create1", errno);
    return set;
}

static void end_wake(struct end *end, uint32_t events)
{
    end->ready = true;
    if (events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP))
        end->hung_up = true;
    if (end->bell != NULL)
        *end->bell = true;
}

void ends_wait(int timeout_ms)
{
    static struct epoll_event events[EVENTS_AT_ONCE];
    int count = epoll_wait(poll_set(), events, EVENTS_AT_ONCE, timeout_ms);
    if (count < 0 && errno != EINTR)
        give_up("epoll_wait", errno);
    for (int at = 0; at < count; at++)
        end_wake(events[at].data.ptr, events[at].events);
}

bool end_watch(struct end *end, uint32_t events)
{
    struct epoll_event event = {.events = events | EPOLLET, .data.ptr = end};
    if (epoll_ctl(poll_set(), EPOLL_CTL_ADD, end->fd, &event) != 0)
        return false;
    end->watched = true;
    return true;
}

bool end_change(const struct end *end, uint32_t events)
{
    struct epoll_event event = {.events = events | EPOLLET, .data.ptr = (void *)(uintptr_t)end};
    return epoll_ctl(poll_set(), EPOLL_CTL_MOD, end->fd, &event) == 0;
}

bool end_open(struct end *end, int fd, bool *bell)
{
    *end = (struct end){.fd = fd, .bell = bell};
    if (end_watch(end, EPOLLIN))
        return true;
    end->fd = -1;
    return false;
}

void end_close(struct end *end)
{
    if (end->fd >= 0)
        close(end->fd);
    *end = END_CLOSED;
}

ssize_t end_read(struct end *end, const struct iovec *into, int count)
{
    size_t room = 0;
    for (int at = 0; at < count; at++)
        room += into[at].iov_len;
    ssize_t got = readv(end->fd, into, count);
    if (got < 0 && errno == EAGAIN)
        end->ready = end->hung_up = false;
    else if (got >= 0 && (size_t)got < room && !end->hung_up)
        end->ready = false;
    return got;
}
