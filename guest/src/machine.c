#include "machine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "plain.h"

#define STATE "/run/pandastack"

static int random_device = -1;
static int machine_id = -1;
static int boot_id = -1;

/* Opens a file of the agent in memory, as long as what will be in it, and mounts it over `target`. */
static int cover(const char *file, const char *target, size_t size)
{
    static const char zeros[BOOT_ID_SIZE + 1] = "000000000000000000000000000000000000";
    int fd = open(file, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0444);
    if (fd < 0 || write(fd, zeros, size) != (ssize_t)size || write(fd, "\n", 1) != 1)
        return -1;
    int there = plain_open(target, 0, 0444);
    if (there >= 0)
        close(there);
    if (mount(file, target, NULL, MS_BIND, NULL) != 0)
        return -1;
    return fd;
}

bool machine_prepare(void)
{
    mkdir("/etc", 0755);
    if (mkdir(STATE, 0755) != 0 && errno != EEXIST)
        return false;
    random_device = open("/dev/urandom", O_RDWR | O_CLOEXEC);
    machine_id = cover(STATE "/machine-id", "/etc/machine-id", MACHINE_ID_SIZE);
    boot_id = cover(STATE "/boot-id", "/proc/sys/kernel/random/boot_id", BOOT_ID_SIZE);
    return random_device >= 0 && machine_id >= 0 && boot_id >= 0;
}

bool machine_add_entropy(struct span entropy)
{
    _Alignas(struct rand_pool_info) uint8_t memory[sizeof(struct rand_pool_info) + ENTROPY_MAX];
    struct rand_pool_info *pool = (struct rand_pool_info *)memory;
    pool->entropy_count = (int)entropy.size * 8;
    pool->buf_size = (int)entropy.size;
    memcpy(pool->buf, entropy.data, entropy.size);
    return ioctl(random_device, RNDADDENTROPY, pool) == 0 && ioctl(random_device, RNDRESEEDCRNG) == 0;
}

bool machine_set_clock(uint64_t wall_ns)
{
    struct timespec now = {.tv_sec = (time_t)(wall_ns / NS_PER_S), .tv_nsec = (long)(wall_ns % NS_PER_S)};
    return clock_settime(CLOCK_REALTIME, &now) == 0;
}

bool machine_set_hostname(struct span name)
{
    return sethostname((const char *)name.data, name.size) == 0;
}

static bool overwrite(int fd, const void *text, size_t size)
{
    return pwrite(fd, text, size, 0) == (ssize_t)size;
}

bool machine_set_id(struct span id)
{
    return overwrite(machine_id, id.data, id.size);
}

bool machine_renew_boot_id(char text[BOOT_ID_SIZE + 1])
{
    uint8_t id[16];
    if (getrandom(id, sizeof id, 0) != sizeof id)
        return false;
    id[6] = (uint8_t)((id[6] & 0x0f) | 0x40); /* a UUID: version 4, */
    id[8] = (uint8_t)((id[8] & 0x3f) | 0x80); /* variant 1 */
    char *at = text;
    for (int byte = 0; byte < 16; byte++)
        at += snprintf(at, 4, byte == 4 || byte == 6 || byte == 8 || byte == 10 ? "-%02x" : "%02x", id[byte]);
    return overwrite(boot_id, text, BOOT_ID_SIZE);
}
