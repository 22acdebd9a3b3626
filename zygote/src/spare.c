#define _GNU_SOURCE
#include "spare.h"

#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SERVER, CHILD };

static int line[2] = {-1, -1}; /* to the child that waits, and from its server */
static pid_t waiting;
static bool is_forking;
static struct order given;

static void hang_up(int end)
{
    if (line[end] >= 0)
        close(line[end]);
    line[end] = -1;
}

pid_t spare_fork(void)
{
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, line) != 0)
        return -1;
    is_forking = true;
    pid_t pid = fork();
    is_forking = false;
    if (pid == 0)
        return 0;
    hang_up(CHILD);
    if (pid < 0)
        hang_up(SERVER);
    waiting = pid > 0 ? pid : 0;
    return pid;
}

const struct order *spare_order(void)
{
    return &given;
}

bool spare_waits(void)
{
    return waiting > 0;
}

bool spare_takes(const struct order *order)
{
    if (!spare_waits())
        return false;
    bool taken = line[SERVER] >= 0 && order_pass_on(line[SERVER], order);
    hang_up(SERVER);
    if (taken)
        waiting = 0; /* else it has ended, which is told soon */
    return taken;
}

bool spare_was(pid_t ended)
{
    if (ended != waiting)
        return false;
    hang_up(SERVER);
    waiting = 0;
    return true;
}

void spare_end(void)
{
    hang_up(SERVER);
    if (waiting > 0)
        waitpid(waiting, NULL, 0);
    waiting = 0;
}

void spare_in_child(void)
{
    hang_up(SERVER);
    waiting = 0;
    if (!is_forking)
        return;
    order_receive(line[CHILD], &given);
    hang_up(CHILD);
}
