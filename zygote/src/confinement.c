#define _GNU_SOURCE
#include "confinement.h"

#include <dlfcn.h>
#include <stdint.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "denied.h"
#include "preload.h"

enum { MAX_STEPS = 4096 };

static bool put_off;
static bool loaded; /* in this process, and so in all that are forked of it */
static struct sock_filter steps[MAX_STEPS];
static struct sock_fprog program = {0, steps};

void confinement_put_off(void)
{
    put_off = true;
}

int seccomp_load(void *filter);
int seccomp_rule_add_array(void *filter, uint32_t action, int number, unsigned int count, const void *arguments);

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

/* libseccomp's own. QEMU denies itself new processes by many rules; that of `clone` is left out, as a machine that runs is
 * forked too. What it could fork is itself, as confined as it is: another program it cannot start.
 */
EXPORT int seccomp_rule_add_array(void *filter, uint32_t action, int number, unsigned int count, const void *arguments)
{
    int (*add)(void *, uint32_t, int, unsigned int, const void *);
    *(void **)&add = dlsym(RTLD_NEXT, "seccomp_rule_add_array");
    return put_off && number == SYS_clone ? 0 : add(filter, action, number, count, arguments);
}

/* For all threads: QEMU's fork handlers have made one already. */
bool confinement_load(void)
{
    if (program.len == 0 || loaded)
        return true;
    loaded = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && denied_load(false) &&
             syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) == 0;
    return loaded;
}

bool confinement_is_loaded(void)
{
    return loaded;
}
