#ifndef ORDERS_H
#define ORDERS_H

#include <stdbool.h>
#include <stddef.h>

/* What the host and a fork server tell each other: one SOCK_SEQPACKET message each way.
 *
 *   "S"             stand still        answer "S 0", or "E errno"
 *   "HOME\0NAME\0"  fork a machine     answer "F pid", or "E errno"; comes with two descriptors, of the sockets where the
 *                                      machine's monitor and its agent's connection are listened for
 *                                      "D pid status" when it has ended, as waitpid gives it
 *
 * The process ends when the other side has gone.
 */

enum { LISTENERS = 2, ORDER_BYTES = 8192 };

struct order {
    char text[ORDER_BYTES];
    size_t length;
    int fds[LISTENERS];
    int count;
};

void order_receive(int channel, struct order *order);

bool order_is_stand_still(const struct order *order);
bool order_is_fork(const struct order *order);

/* Of a fork. */
const char *order_home(const struct order *order);
const char *order_name(const struct order *order);

/* Close what came with it. */
void order_close(const struct order *order);

void tell(int channel, char kind, long number);
void tell_ended(int channel, long pid, int status);

#endif
