/* Does what somebody could who has taken over a process: makes one system call in its place and prints what comes of it.
 * Arguments: the process, the call's number and its arguments: numbers, texts behind "s:", words of 32 bits in memory behind
 * "w:", divided by commas. x86-64.
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

static unsigned long long put(const void *bytes, size_t size, unsigned long long *free_memory)
{
    *free_memory -= MAX_TEXT;
    struct iovec ours = {(void *)bytes, size}, theirs = {(void *)*free_memory, size};
    must(size <= MAX_TEXT && process_vm_writev(process, &ours, 1, &theirs, 1, 0) == (ssize_t)size, "memory");
    return *free_memory;
}

static unsigned long long argument(const char *word, unsigned long long *free_memory)
{
    unsigned words[MAX_TEXT / sizeof(unsigned)];
    size_t count = 0;
    if (strncmp(word, "s:", 2) == 0)
        return put(word + 2, strlen(word + 2) + 1, free_memory);
    if (strncmp(word, "w:", 2) != 0)
        return (unsigned long long)strtoll(word, NULL, 10);
    for (const char *rest = word + 1; rest && count < sizeof words / sizeof *words; rest = strchr(rest + 1, ','))
        words[count++] = (unsigned)strtoul(rest + 1, NULL, 10);
    return put(words, count * sizeof *words, free_memory);
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
