/* From the kernel's start to a machine that serves. */
#ifndef BOOT_H
#define BOOT_H

#include <stdbool.h>

/* As PID 1 in an initramfs: loads modules, mounts the disk and the pseudo file systems, moves there, brings the
 * loopback device up. Gives up on what the agent cannot live without, complains of the rest. */
void boot(void);

/* Where the host speaks to the agent: the virtio port named `pandastack`, or a listener on vsock. */
struct way {
    int fd;
    bool listens;
};

/* Opens the one that the machine has; gives up when none appears within ten seconds. */
struct way boot_open_way(void);

#endif
