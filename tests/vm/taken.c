/* Does what somebody could who has taken over a process: makes one system call in its place and prints what comes of it.
 * Arguments: the process, the call's number and its arguments, numbers or texts behind "s:". x86-64.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TRIES = 500, REST_US = 10000, BELOW_STACK = 1024, MAX_TEXT = 256 };

static pid_t process;

static void must(int done, const char *what)
{
    if (!done) {
        perror(what);
        exit(2);
    }
}

/* Its first thread waits in a system call most of the time: before where it goes on stands the instruction for one. */
static void stop_at_call(struct user_regs_struct *before)
{
    for (int i = 0; i < TRIES; i++) {
        must(ptrace(PTRACE_SEIZE, process, NULL, NULL) == 0 && ptrace(PTRACE_INTERRUPT, process, NULL, NULL) == 0, "seize");
        must(waitpid(process, NULL, __WALL) == process && ptrace(PTRACE_GETREGS, process, NULL, before) == 0, "stop");
        if ((ptrace(PTRACE_PEEKTEXT, process, before->rip - 2, NULL) & 0xffff) == 0x050f)
            return;
        must(ptrace(PTRACE_DETACH, process, NULL, NULL) == 0, "detach");
        usleep(REST_US);
    }
    must(0, "a system call to stop at");
}

static unsigned long long argument(const char *word, unsigned long long *free_memory)
{
    if (strncmp(word, "s:", 2) != 0)
        return (unsigned long long)strtoll(word, NULL, 10);
    *free_memory -= MAX_TEXT;
    struct iovec ours = {(void *)(word + 2), strlen(word + 2) + 1}, theirs = {(void *)*free_memory, strlen(word + 2) + 1};
    must(process_vm_writev(process, &ours, 1, &theirs, 1, 0) > 0, "text");
    return *free_memory;
}

int main(int count, char **words)
{
    struct user_regs_struct before, now;
    if (count < 3 || count > 9)
        return 2;
    process = atoi(words[1]);
    stop_at_call(&before);
    now = before;
    unsigned long long free_memory = before.rsp - BELOW_STACK;
    unsigned long long *const places[] = {&now.rdi, &now.rsi, &now.rdx, &now.r10, &now.r8, &now.r9};
    for (int i = 3; i < count; i++)
        *places[i - 3] = argument(words[i], &free_memory);
    now.rip = before.rip - 2;
    now.rax = (unsigned long long)atoi(words[2]);
    now.orig_rax = -1ULL;
    must(ptrace(PTRACE_SETREGS, process, NULL, &now) == 0 && ptrace(PTRACE_SINGLESTEP, process, NULL, NULL) == 0, "call");
    must(waitpid(process, NULL, __WALL) == process && ptrace(PTRACE_GETREGS, process, NULL, &now) == 0, "answer");
    must(ptrace(PTRACE_SETREGS, process, NULL, &before) == 0 && ptrace(PTRACE_DETACH, process, NULL, NULL) == 0, "go on");
    printf("%lld\n", (long long)now.rax);
    return 0;
}
