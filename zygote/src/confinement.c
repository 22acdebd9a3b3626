#define _GNU_SOURCE
#include "confinement.h"

#include <dlfcn.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "preload.h"

enum { MAX_STEPS = 4096 };

static bool put_off;
static struct sock_filter steps[MAX_STEPS];
static struct sock_fprog program = {0, steps};

void confinement_put_off(void)
{
    put_off = true;
}

int seccomp_load(void *filter);

/* libseccomp's own, which QEMU calls with its finished filter. */
EXPORT int seccomp_load(void *filter)
{
    int (*load)(void *) = (int (*)(void *))dlsym(RTLD_NEXT, "seccomp_load");
    int (*write_program)(void *, int) = (int (*)(void *, int))dlsym(RTLD_NEXT, "seccomp_export_bpf");
    if (!put_off)
        return load(filter);
    int file = memfd_create("filter", MFD_CLOEXEC);
    int failed = write_program(filter, file);
    ssize_t size = failed ? -1 : pread(file, steps, sizeof steps, 0);
    close(file);
    if (size <= 0 || size == (ssize_t)sizeof steps)
        return -1;
    program.len = (unsigned short)((size_t)size / sizeof *steps);
    return 0;
}

/* For all threads: QEMU's fork handlers have made one already. */
bool confinement_load(void)
{
    if (program.len == 0)
        return true;
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) == 0;
}
