#define _GNU_SOURCE
#include "order.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_BYTES = 1 << 16 };

struct reader {
    const char *next, *end;
};

static const char *word(struct reader *reader)
{
    if (reader->next >= reader->end)
        return NULL;
    const char *found = reader->next;
    reader->next += strlen(found) + 1;
    return found;
}

static bool add_word(const char **list, int *count, int most, const char *found)
{
    if (!found || *count >= most - 1)
        return false;
    list[(*count)++] = found;
    return true;
}

static bool add_bind(struct order *order, const char *source, const char *target, const char *how)
{
    if (!source || !target || order->bind_count == MAX_BINDS)
        return false;
    order->binds[order->bind_count++] = (struct bind){source, target, how};
    return true;
}

static bool add_limit(struct order *order, const char *which, const char *value)
{
    if (!which || !value || order->limit_count == MAX_LIMITS)
        return false;
    order->limits[order->limit_count++] = (struct limit){atoi(which), strtoul(value, NULL, 10)};
    return true;
}

static bool take(struct order *order, char kind, struct reader *reader)
{
    const char *first = strchr("ift", kind) ? "" : word(reader), *second, *third;
    if (!first)
        return false;
    switch (kind) {
    case 'b':
        second = word(reader);
        third = word(reader);
        return third && add_bind(order, first, second, third);
    case 's':
        return add_bind(order, first, word(reader), NULL);
    case 'g':
        return add_word(order->groups, &order->group_count, MAX_GROUPS, first);
    case 'u':
        order->user = (unsigned)strtoul(first, NULL, 10);
        return true;
    case 'k':
        order->capabilities = strtoull(first, NULL, 16);
        return true;
    case 'h':
        order->home = atoi(first);
        return true;
    case 'l':
        return add_limit(order, first, word(reader));
    case 'o':
        order->badness = first;
        return true;
    case 'i':
        return order->has_parent = true;
    case 'f':
        return order->has_filter = true;
    case 't':
        return order->signals = true;
    case 'e':
        return add_word(order->environment, &order->environment_count, MAX_WORDS, first);
    case 'a':
        return add_word(order->arguments, &order->argument_count, MAX_WORDS, first);
    }
    return false;
}

bool order_read(int file, struct order *order)
{
    static char text[MAX_BYTES + 1];
    ssize_t length = pread(file, text, MAX_BYTES, 0);
    struct reader reader = {text, text + (length > 0 ? length : 0)};
    *order = (struct order){.home = -1};
    for (const char *kind; (kind = word(&reader));)
        if (strlen(kind) != 1 || !take(order, *kind, &reader))
            return false;
    return order->argument_count > 0 && length < MAX_BYTES;
}
