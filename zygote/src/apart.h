#ifndef APART_H
#define APART_H

/* Processes of one user that are forked of each other are told apart by Landlock: each is in a domain of its own within that of
 * whom it was forked of, and can neither look into a process outside of its domain nor signal one. Nothing in it is executed.
 * Domains are 16 deep at the most.
 */

/* All that this process and its children fork from now on. */
void apart_from_now_on(void);

/* In whatever is forked, while it has one thread: another would stay outside. */
void apart_in_child(void);

#endif
