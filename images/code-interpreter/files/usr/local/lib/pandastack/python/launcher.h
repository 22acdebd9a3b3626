#ifndef LAUNCHER_H
#define LAUNCHER_H

#include "request.h"

/* How Python would read these arguments, when they are of a form that is known here to the letter. */
bool form_of(char *const *arguments, struct request *request);

/* No terminal anywhere, and no descriptor but the three standard ones. */
bool stands_alone(void);

/* Lets the program run and ends as it ends. Returns only if it did not begin to. */
void follow(int server, pid_t program);

#endif
