/* The restore gate: before it opens a machine has no entropy, clock and names of its own, and nothing is served. */
#ifndef GATE_H
#define GATE_H

#include <stdbool.h>

#include "fields.h"

/* A machine of its own: the gate sets entropy, clock, names and network. Without it they are only checked. */
void gate_own_machine(void);

bool gate_is_open(void);

/* Closes it; hooks that still run are ended. */
void gate_close(void);

/* Closes it before the machine becomes a template's snapshot. */
void gate_seal(void);

/* Passes the gate with the fields of a GATE. Returns 0, and it opens once the hooks are done, or an errno, with `what`
 * naming the step that failed; the gate is closed then, and the whole is to be repeated. EALREADY, and nothing changed,
 * when it is open for another machine and this GATE does not ask for a new life. */
int gate_pass(struct span payload, const char **what);

/* The fields that tell what passing the open gate did: the same ones each time. */
void gate_tell(struct writer *writer);

#endif
