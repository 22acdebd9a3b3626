#ifndef DENIED_H
#define DENIED_H

#include <stdbool.h>

/* System calls that no machine's process ever needs, whatever its own filter says: those by which one process reaches another,
 * changes what it sees, or talks to large parts of the kernel. They fail as if they were not permitted.
 * Nor may it signal or limit other processes of its user, or change when and where they run; of itself neither, as one call
 * of these can mean a whole user. That its threads signal each other (`signals`), as those of hardware
 * virtualization must, cannot be told from that: only who is alone in his namespace of processes may.
 */

/* For all threads of this process and all that it will ever start. Needs no_new_privs. */
bool denied_load(bool signals);

#endif
