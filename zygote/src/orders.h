#ifndef ORDERS_H
#define ORDERS_H

#include <stdbool.h>
#include <stddef.h>

/* What the host and a fork server tell each other: one SOCK_SEQPACKET message each way.
 *
 *   "B\0BASE\0STATE\0"  go back        answer "B 0", or "E errno": the guest has become what it was when the process was restored
 *                                      (see load.h), and runs; only before the next one
 *   "S"             stand still        answer "S 0", or "E errno"
 *   "F\0NAME\0HOW\0USER\0"  fork a machine  answer "F pid", by the machine itself, so that the kernel tells who that is
 *                                      elsewhere, or "E errno"; comes with descriptors: of the sockets where the machine's
 *                                      monitor, its agent's connection and its own orders are listened for, of what its
 *                                      network device sends to and receives from, and last of its home. It runs as USER, if
 *                                      that is not empty.
 *                                      "D pid status" when it has ended, as waitpid gives it
 *                                      HOW may be "hold": the guest does not run; or "itself", and then there is no fork: the
 *                                      server becomes the machine, and serves no more
 *   "V\0FILE\0"     save the devices   answer "V 0", or "E errno": their state is in the file
 *
 * The process ends when the other side has gone.
 *
 * A machine that is a fork takes one order a connection, a SOCK_STREAM one:
 *
 *   "C\0OLD\0NEW\0NAME\0" be copied      answer "C pid microseconds", or "E errno". The disk layer NEW is put on top of OLD; then a
 *                                      copy of the process is made, which is a fork server called NAME that takes its orders
 *                                      by the descriptor that came with this one, and the machine goes on; not with a fifth
 *                                      word, "hold". It stood still for so many microseconds.
 *   "L\0BASE\0STATE\0"  load          answer "L 0 microseconds", or "E errno". The guest, which was held, has become that of the
 *                                      snapshot whose pages are in the file that came with the order, and runs.
 *   "P\0"             pause             answer "P 0 microseconds": its processors stand still. Fine when they do
 *   "R\0"             run               answer "R 0 microseconds": they run
 */

enum { OWN = 4, HOME = OWN, DESCRIPTORS, ORDER_BYTES = 8192 };

struct order {
    char text[ORDER_BYTES];
    size_t length;
    int fds[DESCRIPTORS];
    int count;
};

/* False when the other side has gone. */
bool order_take(int channel, struct order *order);

/* As `order_take`, but then the process ends. */
void order_receive(int channel, struct order *order);

/* To another process, with all that came with it. */
bool order_pass_on(int channel, const struct order *order);

bool order_is_go_back(const struct order *order);
bool order_is_stand_still(const struct order *order);
bool order_is_fork(const struct order *order);
bool order_is_for_itself(const struct order *order);

bool order_is_save(const struct order *order);
bool order_is_copy(const struct order *order);
bool order_is_load(const struct order *order);
bool order_is_pause(const struct order *order);
bool order_is_run(const struct order *order);

/* Of a fork; the user is 0 when there is none. */
const char *order_name(const struct order *order);
const char *order_how(const struct order *order);
unsigned order_user(const struct order *order);

/* The words behind the first one, from 1 on; "" when there are not so many. */
const char *order_word(const struct order *order, int number);

/* Close what came with it. */
void order_close(const struct order *order);

/* A server ends when it cannot tell. */
void tell(int channel, char kind, long number);
void tell_ended(int channel, long pid, int status);

/* A machine goes on. */
void tell_refused(int channel, int error);
void tell_done(int channel, char kind, long number, long microseconds);

#endif
