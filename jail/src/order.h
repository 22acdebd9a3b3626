#ifndef ORDER_H
#define ORDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What the host orders: words that end with a zero byte, from one file that it wrote. A word of one letter says what the words
 * behind it are. Nothing in it is a tenant's.
 *
 *   b SOURCE TARGET HOW   TARGET (no leading slash) in the new root is SOURCE, read only; of HOW each letter allows something:
 *                         x to be executed, d to be a device that works (and that the user may open)
 *   s TARGET WHERE        a symbolic link in the new root
 *   g FILE                write our number to this file: a control group's list
 *   u NUMBER              run as this user and group
 *   k MASK                with these capabilities and no others (hexadecimal)
 *   h FD                  this is the home: a mount that is attached nowhere; work there
 *   l WHICH LIMIT         a resource limit
 *   o NUMBER              how gladly the kernel ends us when memory is short
 *   i                     a parent of our own, that nobody else has, collects what we leave behind
 *   f                     load the filter of denied system calls
 *   t                     which lets its threads signal each other, and every other process that it can see
 *   e NAME=VALUE          in the environment
 *   a WORD                in the arguments; the first is the program, in the new root
 */

enum { MAX_BINDS = 128, MAX_GROUPS = 16, MAX_LIMITS = 8, MAX_WORDS = 256 };

struct bind {
    const char *source, *target, *how; /* `how` is NULL of a link */
};

struct limit {
    int which;
    unsigned long value;
};

struct order {
    struct bind binds[MAX_BINDS];
    const char *groups[MAX_GROUPS];
    struct limit limits[MAX_LIMITS];
    const char *arguments[MAX_WORDS], *environment[MAX_WORDS];
    int bind_count, group_count, limit_count, argument_count, environment_count;
    unsigned user;
    uint64_t capabilities;
    int home;
    const char *badness;
    bool has_parent, has_filter, signals;
};

/* False when it is none. The words stay where they are. */
bool order_read(int file, struct order *order);

#endif
