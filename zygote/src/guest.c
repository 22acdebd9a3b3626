#define _GNU_SOURCE
#include "guest.h"

#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>

struct error;

/* As QEMU's interface has it: a kind, and a name that this kind has not. */
struct yank_instance {
    int kind;
    void *name[4];
};

static void (*lock)(const char *file, int line);
static void (*unlock)(void);
static bool (*locked)(void);
static bool (*runs)(void);
static void (*stop)(struct error **error);
static void (*go_on)(struct error **error);
static void (*drain_call_rcu)(void);
static void (*rcu_enable_atfork)(void);
static void (*blockdev_snapshot)(const char *node, const char *overlay, struct error **error);
static void (*save_devices)(const char *file, bool has_live, bool live, struct error **error);
static void (*load_devices)(const char *file, struct error **error);
static uint64_t (*ram_addr_from_host)(void *pointer);
static void (*invalidate)(uint64_t start, uint64_t last);
static bool (*register_yank)(const struct yank_instance *instance, struct error **error);
static uint8_t *flush; /* the code of a function that forgets all translated code */
static const char *(*error_words)(const struct error *error);
static void (*error_free)(struct error *error);

bool guest_find(void)
{
    const struct {
        const char *name;
        void *where;
    } wanted[] = {
        {"bql_lock_impl", &lock},
        {"bql_unlock", &unlock},
        {"bql_locked", &locked},
        {"runstate_is_running", &runs},
        {"qmp_stop", &stop},
        {"qmp_cont", &go_on},
        {"drain_call_rcu", &drain_call_rcu},
        {"rcu_enable_atfork", &rcu_enable_atfork},
        {"qmp_blockdev_snapshot", &blockdev_snapshot},
        {"qmp_xen_save_devices_state", &save_devices},
        {"qmp_xen_load_devices_state", &load_devices},
        {"qemu_ram_addr_from_host", &ram_addr_from_host},
        {"tb_invalidate_phys_range", &invalidate},
        {"tb_flush", &flush},
        {"yank_register_instance", &register_yank},
        {"error_get_pretty", &error_words},
        {"error_free", &error_free},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if (!(*(void **)wanted[i].where = dlsym(RTLD_DEFAULT, wanted[i].name)))
            return false;
    return true;
}

void guest_lock(void)
{
    lock(__FILE__, __LINE__);
}

void guest_unlock(void)
{
    unlock();
}

bool guest_is_locked(void)
{
    return locked();
}

bool guest_runs(void)
{
    return runs();
}

void guest_stop(void)
{
    stop(NULL);
}

void guest_continue(void)
{
    go_on(NULL);
}

void guest_settle(void)
{
    drain_call_rcu();
    rcu_enable_atfork();
}

static bool went_well(const char *what, struct error *error)
{
    if (!error)
        return true;
    fprintf(stderr, "%s: %s\n", what, error_words(error));
    error_free(error);
    return false;
}

bool guest_add_layer(const char *below, const char *top)
{
    struct error *error = NULL;
    blockdev_snapshot(below, top, &error);
    return went_well("a disk layer cannot be added", error);
}

bool guest_save_devices(const char *file)
{
    struct error *error = NULL;
    save_devices(file, true, false, &error);
    return went_well("the devices cannot be saved", error);
}

void guest_forget_code(char *start, size_t size)
{
    uint64_t at = ram_addr_from_host(start);
    invalidate(at, at + size - 1);
}

/* QEMU forgets all translated code when it loads a processor, since the memory has usually been loaded as well. Here it knows
 * which parts of that have changed, so the function that would do so returns at once. It is called by QEMU directly, which
 * leaves no other place to step in.
 */
static bool set_flush_first_byte(uint8_t byte, uint8_t *before)
{
    enum { PAGE = 4096 };
    void *page = (void *)((uintptr_t)flush & ~(uintptr_t)(PAGE - 1));
    if (mprotect(page, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC) != 0)
        return false;
    if (before)
        *before = *flush;
    *flush = byte;
    return mprotect(page, PAGE, PROT_READ | PROT_EXEC) == 0;
}

bool guest_load_devices(const char *file)
{
    enum { RETURN = 0xc3, MIGRATION = 2 };
    const struct yank_instance migration = {.kind = MIGRATION};
    struct error *error = NULL;
    uint8_t before;
    register_yank(&migration, NULL); /* as an incoming migration has, whose end this ends with */
    if (!set_flush_first_byte(RETURN, &before))
        return false;
    load_devices(file, &error);
    return set_flush_first_byte(before, NULL) && went_well("the devices cannot be loaded", error);
}
