/* Pseudo terminals. */
#ifndef TERMINAL_H
#define TERMINAL_H

#include "end.h"

/* A new terminal: `master` is watched in both directions, `slave` is the program's side. False with errno. */
bool terminal_open(struct end *master, int *slave, bool *bell);

bool terminal_resize(int master, uint16_t rows, uint16_t columns);
bool terminal_size(int master, uint16_t *rows, uint16_t *columns);

/* In the leader of a new session: makes the terminal its own, and the user's to open again by name. */
bool terminal_take(int slave, uid_t user);

#endif
