/* python3: runs a program in a copy of the warm interpreter when nobody can tell the difference, else starts Python.
 *
 * Every doubt is decided for /usr/bin/python3, which is always right and only slower. The program is no child of this
 * process, so signals are passed on, its end is told by the server, and the end of this process is its end too.
 */
#include "launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define OURS "/usr/local/bin/"
#define PYTHON "/usr/bin/python3"

/* The name under which Python itself would have been found, or NULL for one that we do not stand for: a link to us from
 * a virtual environment means that environment.
 */
static char *name_of(const char *called)
{
    static char python3[] = PYTHON;
    static char python[] = "/usr/bin/python";
    const char *path = strchr(called, '/') != NULL ? called : (const char *)getauxval(AT_EXECFN);
    if (path != NULL && strcmp(path, OURS "python3") == 0)
        return python3;
    if (path != NULL && strcmp(path, OURS "python") == 0)
        return python;
    return NULL;
}

static int connect_to_server(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = SOCKET_PATH};
    int server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (server < 0)
        return -1;
    if (connect(server, (struct sockaddr *)&address, sizeof address) != 0) {
        close(server);
        return -1;
    }
    fcntl(server, F_SETFL, 0);
    stream_be_patient(server, PATIENCE_S);
    return server;
}

/* The kernel lays the strings of a program out one behind the other. */
static size_t size_of(char *const *strings)
{
    size_t size = 0;
    for (; *strings != NULL; strings++)
        size += strlen(*strings) + 1;
    return size;
}

static char *put_strings(char *at, char *const *strings)
{
    for (; *strings != NULL; strings++)
        at = stpcpy(at, *strings) + 1;
    return at;
}

static bool send_all(int server, struct request *request, char *const *arguments)
{
    char *identity[] = {identity_take(), NULL};
    int folder = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (identity[0] == NULL || folder < 0)
        return false;
    request->identity_size = (uint32_t)size_of(identity);
    request->arguments_size = (uint32_t)size_of(arguments);
    request->environment_size = (uint32_t)size_of(environ);
    size_t size = (size_t)request->identity_size + request->arguments_size + request->environment_size;
    char *strings = malloc(size);
    if (strings == NULL)
        return false;
    put_strings(put_strings(put_strings(strings, identity), arguments), environ);
    request->mask = umask(0);
    umask(request->mask);
    return request_send(server, request, (int[]){0, 1, 2, folder}) && stream_send(server, strings, size);
}

static void run_warm(struct request *request, char *const *arguments)
{
    pid_t program = 0;
    int server = connect_to_server();
    if (server < 0)
        return;
    if (send_all(server, request, arguments) && stream_receive(server, &program, sizeof program) && program > 0)
        follow(server, program);
    close(server);
}

int main(int count, char **arguments)
{
    struct request request = {0};
    char *name = count > 0 ? name_of(arguments[0]) : NULL;
    if (name != NULL) {
        arguments[0] = name;
        if (form_of(arguments, &request) && stands_alone())
            run_warm(&request, arguments);
    }
    execv(PYTHON, arguments);
    fprintf(stderr, "%s: %s\n", PYTHON, strerror(errno));
    return errno == ENOENT ? 127 : 126;
}
