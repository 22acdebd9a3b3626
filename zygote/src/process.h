#ifndef PROCESS_H
#define PROCESS_H

#include <stdbool.h>

/* What a process is called in its arguments, and its children. */

/* The arguments of `main`, one of which may be what stands for a name. */
void process_arguments(int count, char **arguments);

/* Cut to the room that there is. */
void process_rename(const char *name);

/* Be this user and group for good, with no capability left; 0 stays who it is. From then on others of the same user, of which a
 * copy's machines are, cannot look at it or into it.
 */
bool process_becomes(unsigned user);

/* In what is forked, while it has one thread: be this user, if it is none of its own. `process_becomes` would wait three times for
 * the thread that QEMU's fork handlers make, and still has to be called.
 */
void process_becomes_in_child(unsigned user);

/* Which takes from the process itself what it has to know of its threads and its memory: open for as long as it looks. */
void process_open(bool open);

/* Whatever this process ever executes gains no capability; those that it has it keeps. Its children inherit that. */
void process_gains_nothing(void);

/* Have new namespaces: what is forked from now on shares none with what was before. */
bool process_moves_on(void);

/* Whether ended children are to be asked how they have ended, or vanish by themselves. */
void process_asks_children(void);
void process_ignores_children(void);

#endif
