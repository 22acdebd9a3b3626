/* The volumes of a machine. */
#ifndef MOUNT_H
#define MOUNT_H

/* Called once, by an agent that has a machine: others mount nothing. */
void mount_own_machine(void);

#endif
