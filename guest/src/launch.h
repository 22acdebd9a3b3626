/* From the fields of an EXEC to a running program. */
#ifndef LAUNCH_H
#define LAUNCH_H

#include "process.h"

/* Forks the program's process: sets `pid`, `terminal`, `talk`, `input` and `output`, each watched with `bell`.
 * False with errno, and then every end is closed. */
bool launch(struct process *process, const struct fields *fields, bool *bell);

#endif
