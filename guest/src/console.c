#include "console.h"

#include <stdio.h>
#include <string.h>
#include <sys/reboot.h>
#include <unistd.h>

#include "freezer.h"

void complain(const char *what, int error)
{
    if (error != 0)
        dprintf(STDERR_FILENO, "pandastack-agent: %s: %s\n", what, strerror(error));
    else
        dprintf(STDERR_FILENO, "pandastack-agent: %s\n", what);
}

_Noreturn void give_up(const char *what, int error)
{
    complain(what, error);
    if (getpid() == 1) {
        freezer_release(); /* else the flush would wait for ever */
        sync();
        reboot(RB_AUTOBOOT); /* ends it under every monitor; not each of them can be switched off */
    }
    _exit(1);
}
