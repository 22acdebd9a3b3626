/* The end of an agent that is an ordinary process. */
#ifndef FAREWELL_H
#define FAREWELL_H

/* Kills everything that the agent's children started, then exits with status 0. */
_Noreturn void farewell(void);

#endif
