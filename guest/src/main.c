/* The agent in the guest: PID 1 of a machine, or an ordinary process for tests and for the process driver. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "boot.h"
#include "console.h"
#include "freezer.h"
#include "gate.h"
#include "generation.h"
#include "guard.h"
#include "hooks.h"
#include "link.h"
#include "machine.h"
#include "mount.h"
#include "serve.h"
#include "vsock.h"
#include "wipe.h"

struct options {
    const char *socket;
    int fd; /* -1: none */
    unsigned int vsock; /* 0: none */
    const char *root; /* where the programs of the machine are; NULL: nowhere */
    bool no_machine;
};

static _Noreturn void usage(void)
{
    dprintf(STDERR_FILENO, "usage: pandastack-agent (--socket PATH | --vsock PORT | --fd N) [--no-machine [--root DIR]]\n"
                           "       pandastack-agent --version\n"
                           "As PID 1 it boots the machine and serves the virtio port named pandastack, or listens "
                           "on vsock port 1024.\n");
    _exit(2);
}

static int parse_number(const char *text, int least)
{
    char *end;
    errno = 0;
    long number = strtol(text, &end, 10);
    if (errno != 0 || *text == '\0' || *end != '\0' || number < least || number > 1 << 20)
        usage();
    return (int)number;
}

static struct options parse_options(int count, char **arguments)
{
    struct options options = {.fd = -1};
    for (int at = 1; at < count; at++) {
        const char *name = arguments[at];
        if (strcmp(name, "--version") == 0) {
            dprintf(STDOUT_FILENO, "pandastack-agent %s\n", AGENT_VERSION);
            _exit(0);
        }
        if (strcmp(name, "--no-machine") == 0)
            options.no_machine = true;
        else if (strcmp(name, "--socket") == 0 && at + 1 < count)
            options.socket = arguments[++at];
        else if (strcmp(name, "--fd") == 0 && at + 1 < count)
            options.fd = parse_number(arguments[++at], 0);
        else if (strcmp(name, "--vsock") == 0 && at + 1 < count)
            options.vsock = (unsigned int)parse_number(arguments[++at], 1);
        else if (strcmp(name, "--root") == 0 && at + 1 < count)
            options.root = arguments[++at];
        else
            usage();
    }
    int ways = (options.socket != NULL) + (options.fd >= 0) + (options.vsock != 0);
    if (ways != 1 || (options.root != NULL && !options.no_machine))
        usage();
    return options;
}

/* The path appears when it can be connected to, in the place of what a former agent left there; only for this user. */
static int listen_at(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int size = snprintf(address.sun_path, sizeof address.sun_path, "%s.new", path);
    if (size < 0 || (size_t)size >= sizeof address.sun_path)
        give_up(path, ENAMETOOLONG);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    unlink(address.sun_path);
    mode_t mask = umask(0177);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 4) != 0 ||
        rename(address.sun_path, path) != 0)
        give_up(path, errno);
    umask(mask);
    return fd;
}

static int listen_on_vsock(unsigned int port)
{
    int fd = vsock_listen(port);
    if (fd < 0)
        give_up("vsock", errno);
    return fd;
}

static void tell_programs(const char *root)
{
    if (!generation_prepare(root))
        give_up("generation", errno);
    hooks_prepare(root);
    wipe_prepare(root);
}

static void own_machine(void)
{
    gate_own_machine();
    freezer_own_machine();
    guard_own_machine();
    mount_own_machine();
    tell_programs("");
}

static _Noreturn void run_machine(void)
{
    boot();
    serve_prepare();
    own_machine();
    struct way way = boot_open_way();
    if (way.listens)
        link_open_listener(way.fd);
    else
        link_open_port(way.fd);
    serve();
}

static _Noreturn void run_process(int count, char **arguments)
{
    struct options options = parse_options(count, arguments);
    serve_prepare();
    if (!options.no_machine) {
        if (!machine_prepare())
            give_up("prepare the machine", errno);
        own_machine();
    } else if (options.root != NULL) {
        tell_programs(options.root);
    }
    if (options.socket != NULL)
        link_open_listener(listen_at(options.socket));
    else if (options.vsock != 0)
        link_open_listener(listen_on_vsock(options.vsock));
    else
        link_open_descriptor(options.fd);
    serve();
}

int main(int count, char **arguments)
{
    if (getpid() == 1 && count == 1)
        run_machine();
    run_process(count, arguments);
}
