#define _GNU_SOURCE
#include "guest.h"

#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>

struct error;

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
