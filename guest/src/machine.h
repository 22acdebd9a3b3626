/* What a restored machine must not share with its siblings. All return false with errno. */
#ifndef MACHINE_H
#define MACHINE_H

#include <stdbool.h>

#include "bytes.h"

#define ENTROPY_MAX 512
#define HOSTNAME_MAX 64
#define MACHINE_ID_SIZE 32
#define BOOT_ID_SIZE 36

/* Once, at boot: puts files of the agent over /etc/machine-id and the kernel's boot_id, so that the gate only has to
 * overwrite what is in them, and opens the random device. */
bool machine_prepare(void);

/* Into the kernel's pool, credited, and its generator reseeded from there: writing to the device would not reseed. */
bool machine_add_entropy(struct span entropy);
bool machine_set_clock(uint64_t wall_ns);
bool machine_set_hostname(struct span name);
bool machine_set_id(struct span id);

/* A random one, which is left in `text` too, ended by NUL. */
bool machine_renew_boot_id(char text[BOOT_ID_SIZE + 1]);

#endif
