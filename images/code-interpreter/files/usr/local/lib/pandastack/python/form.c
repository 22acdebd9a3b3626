#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "launcher.h"

static bool is(const char *argument, const char *option)
{
    return strcmp(argument, option) == 0;
}

/* Of other values Python has its own opinions: those are not for us. */
static bool asks_unbuffered(void)
{
    const char *value = getenv("PYTHONUNBUFFERED");
    return value != NULL && is(value, "1");
}

bool form_of(char *const *arguments, struct request *request)
{
    uint32_t at = 1;
    request->unbuffered = asks_unbuffered();
    for (; arguments[at] != NULL && is(arguments[at], "-u"); at++)
        request->unbuffered = 1;
    request->rest = at;
    const char *first = arguments[at];
    if (first == NULL || is(first, "-")) {
        request->form = FORM_INPUT;
        return true;
    }
    if (first[0] != '-') {
        request->form = FORM_FILE;
        return first[0] != '\0';
    }
    request->form = FORM_COMMAND;
    request->rest = at + 1;
    return is(first, "-c") && arguments[at + 1] != NULL;
}

static bool has_terminal(void)
{
    for (int fd = 0; fd < 3; fd++)
        if (isatty(fd))
            return true;
    int controlling = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (controlling >= 0)
        close(controlling);
    return controlling >= 0;
}

static bool has_standard(void)
{
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0)
            return false;
    return true;
}

/* What is open beyond them was meant for the program. */
static bool has_more(void)
{
    bool more = false;
    DIR *folder = opendir("/proc/self/fd");
    if (folder == NULL)
        return true;
    for (struct dirent *entry; !more && (entry = readdir(folder)) != NULL;)
        more = atoi(entry->d_name) > 2 && atoi(entry->d_name) != dirfd(folder);
    closedir(folder);
    return more;
}

bool stands_alone(void)
{
    return has_standard() && !has_terminal() && !has_more();
}
