#ifndef WATCH_H
#define WATCH_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>

/* Watches what `program.folders()` names; -1 if that cannot be had. */
int watch_folders_of(PyObject *program);

/* Whether nothing in those folders was written, came or went since. It stays false once it is. */
bool watch_is_quiet(int watch);

#endif
