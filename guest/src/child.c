#include "child.h"

#include <errno.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "link.h"

static int agent = -1;

void child_block_signals(void)
{
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
}

bool talk_open(int ends[2])
{
    return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0;
}

ssize_t talk_receive(int talk, uint8_t *type, struct writer *payload)
{
    struct iovec pieces[2] = {{type, 1}, {payload->data, payload->room}};
    struct msghdr message = {.msg_iov = pieces, .msg_iovlen = 2};
    ssize_t got;
    do /* A child that closed before it read a "commit" is told first, once; what it had said is still there. */
        got = recvmsg(talk, &message, MSG_DONTWAIT);
    while (got < 0 && errno == ECONNRESET);
    payload->size = got > 0 ? (size_t)got - 1 : 0;
    return got;
}

void answer_through(int talk)
{
    agent = talk;
}

struct writer answer_begin(void)
{
    static uint8_t payload[LINK_PAYLOAD];
    return (struct writer){.data = payload, .room = sizeof payload};
}

void answer_send(enum frame_type type, const struct writer *payload)
{
    uint8_t first = (uint8_t)type;
    struct iovec pieces[2] = {{&first, 1}, {payload->data, payload->size}};
    struct msghdr message = {.msg_iov = pieces, .msg_iovlen = 2};
    while (sendmsg(agent, &message, MSG_NOSIGNAL) < 0)
        if (errno != EINTR)
            _exit(1);
}

_Noreturn void answer_done(int error, const char *what)
{
    struct writer payload = answer_begin();
    put_outcome(&payload, error, what);
    answer_send(FRAME_DONE, &payload);
    _exit(0);
}

bool answer_committed(void)
{
    char word;
    return recv(agent, &word, 1, 0) == 1;
}

struct pollfd answer_listener(void)
{
    return (struct pollfd){.fd = agent, .events = POLLIN};
}

void talk_commit(int talk)
{
    send(talk, "c", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}
