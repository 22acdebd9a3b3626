#ifndef CONFINEMENT_H
#define CONFINEMENT_H

#include <stdbool.h>

/* QEMU confines itself once, when it starts; here that is put off, so that the fork server can fork. */

/* From now on a filter that is loaded is only kept. */
void confinement_put_off(void);

/* Load what was kept. False when it cannot be. */
bool confinement_load(void);

/* Whether it has been, in this process or the one that it is forked of. */
bool confinement_is_loaded(void);

#endif
