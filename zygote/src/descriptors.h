#ifndef DESCRIPTORS_H
#define DESCRIPTORS_H

#include <stdbool.h>

/* A child has the descriptors of its parent; each that stands for something of one machine alone is replaced under its
 * number: the files of the machine's home by those of the child's, events by its own, the agent's connection by its own.
 */

/* Note them, in a parent that stands still. `channel` is the one that orders come by. False when they are not as expected. */
bool descriptors_note(int channel);

/* In a copy that is not to be a machine itself: the connections and what is its `own` are its parent's alone. */
bool descriptors_let_go(const int *own, int count);

/* In a child, whose working directory is its home: its own. `listener` is what the agent's connection comes by. */
bool descriptors_renew(int listener);

/* Waits until the agent is sent its first bytes: a guest that waits for them does so with a processor that is busy. */
void descriptors_await_first(int milliseconds);

#endif
