/* The restore gate: before it opens a machine has no entropy, clock and names of its own, and nothing is served. */
#ifndef GATE_H
#define GATE_H

#include <stdbool.h>

#include "fields.h"

/* A machine of its own: the gate sets entropy, clock, names and network. Without it they are only checked. */
void gate_own_machine(void);

bool gate_is_open(void);
void gate_close(void);

/* Opens the gate with the fields of a GATE. Returns 0 or an errno, with `what` naming the step that failed; the gate
 * is closed then, and the whole is to be repeated. EALREADY when it is open. */
int gate_pass(struct span payload, const char **what);

#endif
