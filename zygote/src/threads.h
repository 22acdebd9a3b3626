#ifndef THREADS_H
#define THREADS_H

#include <stdbool.h>

/* The threads of a QEMU that is to be forked. A fork takes along only the thread that calls it; the others are made again in
 * the child, each in the wait that it was in, on its stack and with its thread-local storage.
 */

/* Threads that are made from now on are known. */
void threads_watch(void);

/* Whether each known thread is in a wait that it can be taken from; waits for that, at most so many milliseconds. */
bool threads_stand_still(int milliseconds);

/* After a fork, on both sides: whether all were asleep at that moment. A child of an unsound one is good for nothing. */
bool threads_are_sound(void);

/* In a child that is to be forked itself: it stands still as its parent did, whose threads it does not have. False when its
 * memory has one of them on its way all the same.
 */
bool threads_left_behind(void);

/* In a process that does not stand still any more: threads that are made are known again. */
void threads_go_on(void);

/* In a child of a process that stands still: makes them again. False if one cannot be made. */
bool threads_revive(void);

#endif
