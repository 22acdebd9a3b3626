#include "leave.h"

#include <link.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CLEARED_FIRST "_pandastack" /* of what is in `sys`, the names with an underscore */

static PyObject *get_objects; /* gc.get_objects */
static PyTypeObject *any_stream;
static PyTypeObject *streams[3]; /* the outer kinds first */
static unsigned long long loads_before;
static bool known;
static int exit_code;

/* Python frees its copy of what is in a module of C when it ends, and writes to all of that. */
void leave_alone(PyObject *modules)
{
    PyObject *name, *module;
    for (Py_ssize_t at = 0; PyDict_Next(modules, &at, &name, &module);) {
        PyModuleDef *definition = PyModule_Check(module) ? PyModule_GetDef(module) : NULL;
        if (definition != NULL)
            Py_XINCREF(definition->m_base.m_copy);
    }
    PyErr_Clear();
}

static int count_load(struct dl_phdr_info *library, size_t size, void *loads)
{
    (void)size;
    *(unsigned long long *)loads = library->dlpi_adds;
    return 1;
}

/* How many libraries were ever loaded. */
static unsigned long long loads(void)
{
    unsigned long long count = 0;
    dl_iterate_phdr(count_load, &count);
    return count;
}

void leave_later(void)
{
    loads_before = loads();
}

void leave_with(int code)
{
    exit_code = code;
    known = true;
}

static bool is_stream(PyObject *object)
{
    return PyObject_TypeCheck(object, any_stream);
}

static void finalize(PyObject *object)
{
    if (Py_TYPE(object)->tp_finalize != NULL)
        PyObject_CallFinalizer(object);
}

static void finalize_others(PyObject *left)
{
    for (Py_ssize_t at = PyList_GET_SIZE(left) - 1; at >= 0; at--)
        if (!is_stream(PyList_GET_ITEM(left, at)))
            finalize(PyList_GET_ITEM(left, at));
}

/* A text layer is closed before its buffer, and that before the file. */
static void finalize_streams(PyObject *left)
{
    for (size_t kind = 0; kind < sizeof streams / sizeof *streams; kind++)
        for (Py_ssize_t at = PyList_GET_SIZE(left) - 1; at >= 0; at--)
            if (PyObject_TypeCheck(PyList_GET_ITEM(left, at), streams[kind]))
                finalize(PyList_GET_ITEM(left, at));
}

static bool is_flushed(const char *name)
{
    PyObject *stream = PySys_GetObject(name);
    PyObject *closed = stream == NULL || stream == Py_None ? NULL : PyObject_GetAttrString(stream, "closed");
    bool open = closed != NULL && PyObject_IsTrue(closed) == 0;
    PyObject *flushed = open ? PyObject_CallMethod(stream, "flush", NULL) : NULL;
    PyErr_Clear();
    Py_XDECREF(closed);
    Py_XDECREF(flushed);
    return !open || flushed != NULL;
}

/* Called while `sys` is cleared: the modules of the program are torn down, and what nobody held has gone. What is left is
 * held by some module that was loaded ahead, which Python would have torn down as well.
 */
static void at_clearing(PyObject *capsule)
{
    (void)capsule;
    PyObject *left = known ? PyObject_CallNoArgs(get_objects) : NULL;
    if (left == NULL)
        return;
    finalize_others(left);
    if (!is_flushed("stdout") || !is_flushed("stderr"))
        return; /* Python has an exit code for that */
    finalize_streams(left);
    if (loads() != loads_before)
        exit(exit_code); /* a library that the program has loaded may wait for the exit */
    fflush(NULL);
    _exit(exit_code);
}

static PyObject *leave(PyObject *self, PyObject *arguments)
{
    (void)self, (void)arguments;
    PyObject *capsule = PyCapsule_New(&known, NULL, at_clearing);
    if (capsule == NULL || PySys_SetObject(CLEARED_FIRST, capsule) != 0)
        return NULL;
    Py_DECREF(capsule);
    Py_RETURN_NONE;
}

static PyObject *import_from(const char *module, const char *name)
{
    PyObject *found = PyImport_ImportModule(module);
    PyObject *object = found == NULL ? NULL : PyObject_GetAttrString(found, name);
    Py_XDECREF(found);
    return object;
}

PyObject *leave_function(void)
{
    static PyMethodDef method = {"leave", leave, METH_NOARGS, NULL};
    get_objects = import_from("gc", "get_objects");
    any_stream = (PyTypeObject *)import_from("_io", "_IOBase");
    streams[0] = (PyTypeObject *)import_from("_io", "_TextIOBase");
    streams[1] = (PyTypeObject *)import_from("_io", "_BufferedIOBase");
    streams[2] = (PyTypeObject *)import_from("_io", "_RawIOBase");
    return PyErr_Occurred() ? NULL : PyCFunction_New(&method, NULL);
}
