#ifndef PROCESS_H
#define PROCESS_H

/* What a process is called in its arguments, and its children. */

/* The arguments of `main`, one of which may be what stands for a name. */
void process_arguments(int count, char **arguments);

/* Cut to the room that there is. */
void process_rename(const char *name);

/* Whether ended children are to be asked how they have ended, or vanish by themselves. */
void process_asks_children(void);
void process_ignores_children(void);

#endif
