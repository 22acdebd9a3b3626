/* Who a child is: read from /etc/passwd and /etc/group, strictly, without the C library's databases. */
#ifndef USER_H
#define USER_H

#include <stdbool.h>
#include <sys/types.h>

#include "bytes.h"

#define USER_GROUPS_MAX 64
#define USER_TEXT_MAX 256

struct user {
    uid_t uid;
    gid_t gid;
    char name[USER_TEXT_MAX];
    char home[USER_TEXT_MAX];
    char shell[USER_TEXT_MAX];
};

/* True for the agent's own user: no name, or root's when the agent is root. */
bool user_is_own(struct span name);

/* The user of that name or number; an empty name is the agent's own user. A number without an entry is a user without
 * name whose group has the same number. False when there is no such user. */
bool user_find(struct span name, struct user *user);

/* Takes the user's groups and ids for good, unless the agent has them already. False with errno. */
bool user_become(const struct user *user);

#endif
