#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "launcher.h"

#define AGENT 1

/* The program writes and reads them now; who waits for their end must not wait for us. */
static void let_go_of_standard(void)
{
    int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd < 3 && nothing >= 0; fd++)
        dup2(nothing, fd);
}

/* As all signals are blocked, each waits to be passed on. */
static int take_signals(sigset_t *before)
{
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, before);
    return signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
}

static bool begin(int server, int handle, int signals)
{
    char run = RUN;
    return handle >= 0 && signals >= 0 && stream_send(server, &run, 1);
}

static bool is_stop(uint32_t number)
{
    return number == SIGTSTP || number == SIGTTIN || number == SIGTTOU;
}

/* The agent signals whole process groups; anybody else is taken to mean the one process. */
static void pass_on(int signals, int handle, pid_t program)
{
    struct signalfd_siginfo came;
    while (read(signals, &came, sizeof came) == (ssize_t)sizeof came) {
        int number = (int)came.ssi_signo;
        if (number == SIGCHLD)
            continue;
        if (came.ssi_pid == AGENT)
            kill(-program, number);
        else
            syscall(SYS_pidfd_send_signal, handle, number, NULL, 0);
        if (is_stop(came.ssi_signo))
            raise(SIGSTOP);
    }
}

static _Noreturn void end_by(int number)
{
    sigset_t none;
    prctl(PR_SET_DUMPABLE, 0); /* the program has left its own core, if any */
    signal(number, SIG_DFL);
    sigemptyset(&none);
    raise(number);
    sigprocmask(SIG_SETMASK, &none, NULL);
    _exit(128 + number);
}

static _Noreturn void end_as(int status)
{
    if (WIFSIGNALED(status))
        end_by(WTERMSIG(status));
    _exit(WEXITSTATUS(status));
}

/* Without a server nobody will tell how the program ends: what cannot be followed is ended. */
static _Noreturn void end_both(pid_t program)
{
    kill(-program, SIGKILL);
    end_by(SIGKILL);
}

void follow(int server, pid_t program)
{
    sigset_t before;
    int status;
    int signals = take_signals(&before);
    int handle = (int)syscall(SYS_pidfd_open, program, 0);
    if (!begin(server, handle, signals)) {
        sigprocmask(SIG_SETMASK, &before, NULL);
        return;
    }
    let_go_of_standard();
    struct pollfd ends[2] = {{.fd = server, .events = POLLIN}, {.fd = signals, .events = POLLIN}};
    while (ends[0].revents == 0) {
        if (ends[1].revents != 0)
            pass_on(signals, handle, program);
        poll(ends, 2, -1);
    }
    if (!stream_receive(server, &status, sizeof status))
        end_both(program);
    end_as(status);
}
