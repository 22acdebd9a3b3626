#ifndef PROGRAM_H
#define PROGRAM_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <signal.h>

#include "request.h"

/* What every program starts from. */
struct warmth {
    char *identity;   /* of who may be served: as this process was, before it became Python */
    PyObject *program; /* warm_python.program.Program */
    sigset_t signals; /* the blocked ones, likewise */
    int watch;        /* of the folders that modules were loaded from */
    int complaints;   /* this process's own standard error */
};

/* In a fresh child: takes the request from the socket and is that program to its end; the result is its exit code. */
int program_run(int socket, const struct warmth *warmth);

#endif
