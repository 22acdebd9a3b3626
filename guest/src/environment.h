/* The environment of a program: defaults of its user, /etc/environment, the gate's, its own; the later wins. */
#ifndef ENVIRONMENT_H
#define ENVIRONMENT_H

#include "fields.h"
#include "user.h"

/* Keeps the gate's ENV fields. False, and nothing changed, when there are more than fit. */
bool environment_keep(const struct fields *gate);

/* In a child, before its strings are ended: makes `environ` what the fields of an EXEC ask for. */
void environment_build(const struct fields *exec, const struct user *user, bool terminal);

/* True for `NAME=value` with a name that is not empty. */
bool environment_fits(struct span entry);

#endif
