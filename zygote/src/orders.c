#define _GNU_SOURCE
#include "orders.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void take_descriptors(struct order *order, struct msghdr *message)
{
    order->count = 0;
    for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part; part = CMSG_NXTHDR(message, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
            continue;
        order->count = (int)((part->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(order->fds, CMSG_DATA(part), (size_t)order->count * sizeof(int));
    }
}

bool order_take(int channel, struct order *order)
{
    char control[CMSG_SPACE(DESCRIPTORS * sizeof(int))];
    struct iovec text = {order->text, sizeof order->text - 1};
    struct msghdr message = {.msg_iov = &text, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t length = recvmsg(channel, &message, MSG_CMSG_CLOEXEC);
    order->count = 0;
    order->length = length > 0 ? (size_t)length : 0;
    order->text[order->length] = 0;
    if (length > 0)
        take_descriptors(order, &message);
    return length > 0;
}

void order_receive(int channel, struct order *order)
{
    if (!order_take(channel, order))
        _exit(0);
}

bool order_pass_on(int channel, const struct order *order)
{
    char control[CMSG_SPACE(DESCRIPTORS * sizeof(int))] = {0};
    struct iovec text = {(void *)order->text, order->length};
    struct msghdr message = {.msg_iov = &text, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN((size_t)order->count * sizeof(int));
    memcpy(CMSG_DATA(part), order->fds, (size_t)order->count * sizeof(int));
    return sendmsg(channel, &message, MSG_NOSIGNAL) == (ssize_t)order->length;
}

bool order_is_go_back(const struct order *order)
{
    return strcmp(order->text, "B") == 0 && order->count == 0;
}

bool order_is_stand_still(const struct order *order)
{
    return strcmp(order->text, "S") == 0;
}

bool order_is_fork(const struct order *order)
{
    return strcmp(order->text, "F") == 0 && order->count == DESCRIPTORS;
}

bool order_is_for_itself(const struct order *order)
{
    return order_is_fork(order) && strcmp(order_how(order), "itself") == 0;
}

bool order_is_save(const struct order *order)
{
    return strcmp(order->text, "V") == 0 && order->count == 0;
}

bool order_is_copy(const struct order *order)
{
    return strcmp(order->text, "C") == 0 && order->count == 1;
}

bool order_is_load(const struct order *order)
{
    return strcmp(order->text, "L") == 0 && order->count == 1;
}

bool order_is_pause(const struct order *order)
{
    return strcmp(order->text, "P") == 0 && order->count == 0;
}

bool order_is_run(const struct order *order)
{
    return strcmp(order->text, "R") == 0 && order->count == 0;
}

const char *order_word(const struct order *order, int number)
{
    const char *word = order->text, *end = order->text + order->length;
    for (; number > 0 && word < end; number--)
        word += strlen(word) + 1;
    return word < end ? word : "";
}

const char *order_name(const struct order *order)
{
    return order_word(order, 1);
}

const char *order_how(const struct order *order)
{
    return order_word(order, 2);
}

unsigned order_user(const struct order *order)
{
    return (unsigned)strtoul(order_word(order, 3), NULL, 10);
}

void order_close(const struct order *order)
{
    for (int i = 0; i < order->count; i++)
        close(order->fds[i]);
}

static void say(int channel, const char *line)
{
    if (send(channel, line, strlen(line), MSG_NOSIGNAL) < 0)
        _exit(0);
}

void tell(int channel, char kind, long number)
{
    char line[64];
    snprintf(line, sizeof line, "%c %ld", kind, number);
    say(channel, line);
}

void tell_ended(int channel, long pid, int status)
{
    char line[64];
    snprintf(line, sizeof line, "D %ld %d", pid, status);
    say(channel, line);
}

void tell_done(int channel, char kind, long number, long microseconds)
{
    char line[64];
    snprintf(line, sizeof line, "%c %ld %ld", kind, number, microseconds);
    send(channel, line, strlen(line), MSG_NOSIGNAL);
}

void tell_refused(int channel, int error)
{
    char line[64];
    snprintf(line, sizeof line, "E %d", error);
    send(channel, line, strlen(line), MSG_NOSIGNAL);
}
