#define _GNU_SOURCE
#include "denied.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { X32 = 0x40000000, IO_URING_SETUP = 425, OPEN_TREE = 428, LAST_NEW = 1023 };

/* Numbers from `OPEN_TREE` on are the same on all architectures; the C library's headers may be older than some. */
static const int numbers[] = {
    SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_kcmp, SYS_perf_event_open, SYS_userfaultfd,
    SYS_bpf, SYS_keyctl, SYS_add_key, SYS_request_key,
    SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_unshare, SYS_setns,
    OPEN_TREE, 429 /* move_mount */, 430 /* fsopen */, 431 /* fsconfig */, 432 /* fsmount */, 433 /* fspick */,
    442 /* mount_setattr */, 467 /* open_tree_attr */, 438 /* pidfd_getfd */, 424 /* pidfd_send_signal */,
    IO_URING_SETUP, 426 /* io_uring_enter */, 427 /* io_uring_register */,
    SYS_name_to_handle_at, SYS_open_by_handle_at, SYS_init_module, SYS_finit_module, SYS_delete_module,
    SYS_kexec_load, SYS_reboot, SYS_swapon, SYS_swapoff, SYS_acct, SYS_quotactl, SYS_settimeofday, SYS_clock_settime,
    SYS_adjtimex, SYS_clock_adjtime, SYS_syslog, SYS_personality, SYS_vhangup, SYS_fanotify_init,
    SYS_kill, SYS_tkill, SYS_rt_sigqueueinfo, SYS_rt_tgsigqueueinfo,
    SYS_sched_setattr, SYS_sched_setscheduler, SYS_sched_setparam, SYS_sched_setaffinity, SYS_setpriority,
    SYS_ioprio_set, SYS_migrate_pages, SYS_move_pages, 440 /* process_madvise */, 448 /* process_mrelease */,
#ifdef __x86_64__
    SYS_iopl, SYS_ioperm, SYS_modify_ldt, 320 /* kexec_file_load */,
#endif
};

/* Ways to have the kernel send a signal: F_SETOWN, F_SETSIG, F_SETOWN_EX; FIOSETOWN, SIOCSPGRP. */
static const int fcntls[] = {8, 10, 15}, ioctls[] = {0x8901, 0x8902};
static const int families[] = {AF_UNIX, AF_INET, AF_INET6};

enum { COUNT = sizeof numbers / sizeof *numbers, FAMILIES = sizeof families / sizeof *families };

static const uint32_t namespaces = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID |
                                   CLONE_NEWNET | 0x80 /* CLONE_NEWTIME */;

struct program {
    struct sock_filter steps[COUNT * 2 + FAMILIES + 64];
    unsigned short length;
};

static void add(struct program *program, struct sock_filter step)
{
    program->steps[program->length++] = step;
}

static void load(struct program *program, size_t offset)
{
    add(program, (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset));
}

/* The next step is taken only when what was loaded compares so. */
static void only_if(struct program *program, uint16_t compares, uint32_t value)
{
    add(program, (struct sock_filter)BPF_JUMP(BPF_JMP | compares | BPF_K, value, 0, 1));
}

static void answer(struct program *program, uint32_t action)
{
    add(program, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action));
}

#if defined __x86_64__
static const uint32_t architecture = AUDIT_ARCH_X86_64;
#elif defined __aarch64__
static const uint32_t architecture = AUDIT_ARCH_AARCH64;
#endif

/* One call, by an argument of 32 bits: those of the list are refused. */
static void refuse(struct program *program, int number, int argument, const int *values, int count)
{
    add(program, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 0, (uint8_t)(count + 3)));
    load(program, offsetof(struct seccomp_data, args) + (size_t)argument * sizeof(uint64_t));
    for (int i = 0; i < count; i++)
        add(program, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)values[i], (uint8_t)(count - i), 0));
    answer(program, SECCOMP_RET_ALLOW);
    answer(program, SECCOMP_RET_ERRNO | EPERM);
}

static void write_program(struct program *program, bool signals)
{
    const uint32_t refused = SECCOMP_RET_ERRNO | EPERM;
    load(program, offsetof(struct seccomp_data, arch));
    add(program, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, architecture, 1, 0));
    answer(program, SECCOMP_RET_KILL_PROCESS);
    load(program, offsetof(struct seccomp_data, nr));
    only_if(program, BPF_JGE, X32);
    answer(program, SECCOMP_RET_KILL_PROCESS);
    for (int i = 0; i < COUNT; i++) {
        only_if(program, BPF_JEQ, (uint32_t)numbers[i]);
        answer(program, refused);
    }
    if (!signals) {
        only_if(program, BPF_JEQ, SYS_tgkill);
        answer(program, refused);
    }
    refuse(program, SYS_fcntl, 1, fcntls, sizeof fcntls / sizeof *fcntls);
    refuse(program, SYS_ioctl, 1, ioctls, sizeof ioctls / sizeof *ioctls);
    add(program, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_prlimit64, 0, 4));
    load(program, offsetof(struct seccomp_data, args[0]));
    add(program, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0)); /* its own limits */
    answer(program, refused);
    answer(program, SECCOMP_RET_ALLOW);
    only_if(program, BPF_JEQ, 435); /* clone3: its flags are in memory, which no filter sees */
    answer(program, SECCOMP_RET_ERRNO | ENOSYS);
    add(program, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 4));
    load(program, offsetof(struct seccomp_data, args[0]));
    only_if(program, BPF_JSET, namespaces);
    answer(program, refused);
    answer(program, SECCOMP_RET_ALLOW);
    add(program, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 0, FAMILIES + 2));
    load(program, offsetof(struct seccomp_data, args[0]));
    for (int i = 0; i < FAMILIES; i++)
        add(program, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)families[i], (uint8_t)(FAMILIES - i), 0));
    answer(program, refused);
    answer(program, SECCOMP_RET_ALLOW);
}

bool denied_load(bool signals)
{
    static struct program program;
    if (program.length == 0)
        write_program(&program, signals);
    const struct sock_fprog filter = {program.length, program.steps};
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &filter) == 0;
}
