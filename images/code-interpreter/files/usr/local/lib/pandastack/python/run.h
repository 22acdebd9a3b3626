#ifndef RUN_H
#define RUN_H

#include "request.h"

/* Does what Python's own main does once it has started: runs a file, a command or the script on the standard input as
 * `__main__`, whose variables are set, and ends Python. Returns the exit code.
 */
int run(enum form form, const char *what);

#endif
