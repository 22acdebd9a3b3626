#include "watch.h"

#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define CHANGES (IN_MODIFY | IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO)

static bool watch_all(int watch, PyObject *folders)
{
    for (Py_ssize_t at = 0; at < PyList_Size(folders); at++) {
        const char *path = PyUnicode_AsUTF8(PyList_GET_ITEM(folders, at));
        if (path == NULL || inotify_add_watch(watch, path, CHANGES | IN_ONLYDIR) < 0)
            return false;
    }
    return true;
}

int watch_folders_of(PyObject *program)
{
    int watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    PyObject *folders = PyObject_CallMethod(program, "folders", NULL);
    if (folders == NULL)
        PyErr_Print();
    if (watch >= 0 && (folders == NULL || !watch_all(watch, folders))) {
        close(watch);
        watch = -1;
    }
    Py_XDECREF(folders);
    return watch;
}

/* The changes are never read: that there are some is enough. */
bool watch_is_quiet(int watch)
{
    int waiting = 0;
    return watch >= 0 && ioctl(watch, FIONREAD, &waiting) == 0 && waiting == 0;
}
