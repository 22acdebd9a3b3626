#include "run.h"

#include "leave.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Of Python, but of none of its headers: whether an interrupt has ended the program, and what SystemExit says. */
extern int _Py_UnhandledKeyboardInterrupt;
extern int _Py_HandleSystemExit(int *code);

static PyObject *variables_of_main(void)
{
    PyObject *main = PyImport_AddModule("__main__");
    return main == NULL ? NULL : PyModule_GetDict(main);
}

static void flush(const char *name)
{
    PyObject *stream = PySys_GetObject(name);
    PyObject *flushed = stream == NULL ? NULL : PyObject_CallMethod(stream, "flush", NULL);
    Py_XDECREF(flushed);
    PyErr_Clear();
}

/* What was printed comes before what went wrong. */
static void flush_streams(void)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    flush("stderr");
    flush("stdout");
    PyErr_Restore(type, value, traceback);
}

static void forget_file(PyObject *variables)
{
    PyDict_DelItemString(variables, "__file__");
    PyErr_Clear();
    PyDict_DelItemString(variables, "__cached__");
    PyErr_Clear();
}

/* After SystemExit the program does not return to where its file is forgotten. */
static int code_of(PyObject *result, PyObject *variables, bool is_file)
{
    int code = 0;
    if (result == NULL && _Py_HandleSystemExit(&code))
        return code;
    if (result == NULL)
        PyErr_Print();
    if (is_file)
        forget_file(variables);
    Py_XDECREF(result);
    return result == NULL;
}

static int run_stream(FILE *stream, const char *name, PyCompilerFlags *flags)
{
    PyObject *variables = variables_of_main();
    PyObject *result = PyRun_FileExFlags(stream, name, Py_file_input, variables, variables, stream != stdin, flags);
    flush_streams();
    return code_of(result, variables, true);
}

/* As the file is absolute in a traceback, whatever the program is told of it. */
static char *absolute(const char *name)
{
    char *folder = name[0] == '/' ? NULL : getcwd(NULL, 0);
    char *path = NULL;
    if (folder == NULL || asprintf(&path, "%s/%s", folder, name) < 0)
        path = strdup(name);
    free(folder);
    return path;
}

static int run_file(const char *name, PyCompilerFlags *flags)
{
    char *path = absolute(name);
    FILE *file = path == NULL ? NULL : fopen(path, "rbe");
    if (file != NULL)
        return run_stream(file, path, flags);
    PySys_WriteStderr("/usr/bin/python3: can't open file '%s': [Errno %d] %s\n", path, errno, strerror(errno));
    return 2;
}

static int run_command(const char *command, PyCompilerFlags *flags)
{
    char *line = NULL;
    PyObject *variables = variables_of_main();
    if (asprintf(&line, "%s\n", command) < 0)
        return 1;
    flags->cf_flags |= PyCF_IGNORE_COOKIE;
    return code_of(PyRun_StringFlags(line, Py_file_input, variables, variables, flags), variables, false);
}

static int run_form(enum form form, const char *what)
{
    PyCompilerFlags flags = {.cf_flags = 0, .cf_feature_version = PY_MINOR_VERSION};
    if (form == FORM_FILE)
        return run_file(what, &flags);
    if (form == FORM_COMMAND)
        return run_command(what, &flags);
    return run_stream(stdin, "<stdin>", &flags);
}

/* A program that was interrupted has been killed by the signal, for whoever waits for it. */
static int end_by_interrupt(void)
{
    signal(SIGINT, SIG_DFL);
    kill(getpid(), SIGINT);
    return 128 + SIGINT;
}

int run(enum form form, const char *what)
{
    leave_later();
    int code = run_form(form, what);
    bool interrupted = _Py_UnhandledKeyboardInterrupt;
    if (!interrupted)
        leave_with(code);
    if (Py_FinalizeEx() < 0)
        code = 120;
    return interrupted ? end_by_interrupt() : code;
}
