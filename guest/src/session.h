/* The session: frames in, answers out. */
#ifndef SESSION_H
#define SESSION_H

#include "link.h"

/* The session as the reader of the link. */
extern const struct link_reader session_reader;

void session_open(void);

/* Lets each stream send what is due, in turn, while the link has room. True when something moved. */
bool session_turn(void);

#endif
