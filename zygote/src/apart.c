#define _GNU_SOURCE
#include "apart.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Landlock's, which the C library's headers may not have. */
enum { CREATE_RULESET = 444, RESTRICT_SELF = 446, TELL_VERSION = 1, SCOPED_VERSION = 6, NETWORK_VERSION = 4 };

enum { EXECUTE = 1 << 0, ABSTRACT_SOCKETS = 1 << 0, SIGNALS = 1 << 1 };

enum { NO_DOMAIN = 116 };

struct rules {
    uint64_t files, network, scoped;
};

static bool can_be; /* a process that is forked is to be set apart */

/* A kernel without Landlock has nobody set apart, and one that is too deep below others stays with whom it was forked of. */
static bool set_apart(void)
{
    long version = syscall(CREATE_RULESET, NULL, 0, TELL_VERSION);
    if (version < 1)
        return true;
    const struct rules rules = {EXECUTE, 0, version >= SCOPED_VERSION ? ABSTRACT_SOCKETS | SIGNALS : 0};
    const size_t size = version >= SCOPED_VERSION ? sizeof rules : version >= NETWORK_VERSION ? 16 : 8;
    int domain = (int)syscall(CREATE_RULESET, &rules, size, 0);
    if (domain < 0)
        return false;
    bool done = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && (syscall(RESTRICT_SELF, domain, 0) == 0 || errno == E2BIG);
    close(domain);
    return done;
}

void apart_in_child(void)
{
    if (can_be && !set_apart()) {
        perror("a forked machine cannot be set apart");
        _exit(NO_DOMAIN);
    }
}

void apart_from_now_on(void)
{
    can_be = true;
}
