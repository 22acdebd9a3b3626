/* From the kernel's start to a machine that serves. */
#ifndef BOOT_H
#define BOOT_H

/* As PID 1 in an initramfs: loads modules, mounts the disk and the pseudo file systems, moves there, brings the
 * loopback device up. Gives up on what the agent cannot live without, complains of the rest. */
void boot(void);

/* Opens the virtio port named `pandastack`; gives up when none appears within ten seconds. */
int boot_open_port(void);

#endif
