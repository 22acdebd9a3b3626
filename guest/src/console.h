/* What goes wrong is said on standard error, which is the console of a machine. */
#ifndef CONSOLE_H
#define CONSOLE_H

/* "pandastack-agent: <what>[: <strerror(error)>]"; `error` 0 says nothing of the errno. */
void complain(const char *what, int error);

/* Complains, then ends: powers off as PID 1, exits with status 1 otherwise. */
_Noreturn void give_up(const char *what, int error);

#endif
