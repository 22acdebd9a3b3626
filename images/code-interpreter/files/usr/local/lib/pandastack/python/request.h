/* What the launcher and the server of warm Python tell each other, over a stream socket that only root can reach.
 *
 *   launcher -> server   a request, with four descriptors: standard input, output, error, and the working directory
 *   program  -> launcher its process id: it is ready to run; or 0: this one must be run cold
 *   launcher -> program  RUN; a launcher that lost patience closes instead, and then nothing has happened
 *   server   -> launcher the wait status, once the program has ended
 *
 * From RUN on the launcher says nothing more: that its end closes is what kills the program.
 */
#ifndef REQUEST_H
#define REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define SOCKET_FOLDER "/run/pandastack"
#define SOCKET_PATH SOCKET_FOLDER "/python.sock"
#define PATIENCE_S 5 /* for each answer before RUN; the other way takes longer */
#define RUN 'r'

enum form { FORM_INPUT, FORM_FILE, FORM_COMMAND };

enum { DESCRIPTOR_INPUT, DESCRIPTOR_OUTPUT, DESCRIPTOR_ERROR, DESCRIPTOR_FOLDER, DESCRIPTORS };

/* Followed by three blocks of strings that each end with NUL: identity (one), arguments, environment. */
struct request {
    uint32_t form;
    uint32_t unbuffered;
    uint32_t rest; /* the index of the first argument that is the program's own: a file, or what -c takes */
    uint32_t mask; /* umask */
    uint32_t identity_size;
    uint32_t arguments_size;
    uint32_t environment_size;
};

/* All of it or nothing; false on an error, on the end of the stream and when patience ends. */
bool stream_send(int socket, const void *bytes, size_t size);
bool stream_receive(int socket, void *bytes, size_t size);

/* Gives up each later send and receive after so many seconds; never, if 0. */
void stream_be_patient(int socket, int seconds);

bool request_send(int socket, const struct request *request, const int *descriptors);
/* `descriptors` are open and close-on-exec when it succeeds. */
bool request_receive(int socket, struct request *request, int *descriptors);

/* What a program inherits and can tell, but for what a request carries: user, groups, capabilities, signals,
 * limits, namespaces, scheduling. Two processes with the same text are interchangeable. NULL if it cannot be read.
 */
char *identity_take(void);

#endif
