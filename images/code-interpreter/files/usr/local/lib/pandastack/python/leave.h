#ifndef LEAVE_H
#define LEAVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* The end of a program, as far as anybody can tell it from Python's own: threads are waited for, exit functions called,
 * the program's modules torn down, the streams flushed. What Python would do then, for itself alone, is to take itself
 * apart, and so to write to all the memory that is shared with the warm interpreter; the process ends instead.
 */

/* A function for Python, to be called as the last of all exit functions: it makes the end come so. */
PyObject *leave_function(void);

/* Makes loaded modules, a dict, survive the end of a program whole. */
void leave_alone(PyObject *modules);

/* To be called before a program runs. */
void leave_later(void);

/* The exit code is known: Python may end. */
void leave_with(int code);

#endif
