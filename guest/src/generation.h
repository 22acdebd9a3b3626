/* The file by which programs that run on through a restore notice that they live in another machine. */
#ifndef GENERATION_H
#define GENERATION_H

#include <stdbool.h>

#include "bytes.h"

/* Once: makes ROOT/run/pandastack/generation. Without it generation_renew() does nothing. False with errno. */
bool generation_prepare(const char *root);

/* Overwrites it with the machine's id and how many lives its memory has seen, one line. False with errno. */
bool generation_renew(struct span machine_id);

#endif
