/* METRICS. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "child.h"
#include "clock.h"
#include "jobs.h"
#include "lines.h"
#include "tree.h"

static uint64_t process_count;

/* The number behind `name` in a file of /proc whose lines are "name number…"; 0 when it is not there. */
static uint64_t number_in(const char *path, const char *name)
{
    struct lines lines;
    uint64_t number = 0;
    size_t size = strlen(name);
    if (!lines_open(&lines, path))
        return 0;
    for (char *line; (line = lines_next(&lines)) != NULL;)
        if (strncmp(line, name, size) == 0) {
            number = strtoull(line + size, NULL, 10);
            break;
        }
    lines_close(&lines);
    return number;
}

/* The first line of /proc/stat: user nice system idle iowait irq softirq steal, in ticks. */
static uint64_t cpu_busy_ms(void)
{
    struct lines lines;
    uint64_t busy = 0;
    if (!lines_open(&lines, "/proc/stat"))
        return 0;
    char *at = lines_next(&lines);
    at = at == NULL ? NULL : strchr(at, ' ');
    for (int column = 0; at != NULL && column < 8; column++) {
        uint64_t ticks = strtoull(at, &at, 10);
        if (column != 3 && column != 4)
            busy += ticks;
    }
    lines_close(&lines);
    return busy * 1000 / (uint64_t)sysconf(_SC_CLK_TCK);
}

static int count_process(const struct visit *visit)
{
    process_count += visit->depth == 1 && visit->name[0] >= '1' && visit->name[0] <= '9';
    return 0;
}

static void put_disk(struct writer *writer)
{
    struct statvfs disk;
    if (statvfs("/", &disk) != 0)
        disk = (struct statvfs){0};
    put_number(writer, TAG_DISK_TOTAL, (uint64_t)disk.f_blocks * disk.f_frsize);
    put_number(writer, TAG_DISK_FREE, (uint64_t)disk.f_bavail * disk.f_frsize);
}

void job_metrics(const struct fields *fields, int content)
{
    (void)fields;
    (void)content;
    static const struct walk processes = {.enter = count_process, .depth = 1, .forgiving = true};
    struct sysinfo info = {0};
    struct writer items = answer_begin();
    sysinfo(&info);
    tree_walk(AT_FDCWD, "/proc", &processes);
    size_t item = put_open(&items, TAG_ITEM);
    put_number(&items, TAG_UPTIME_MS, clock_ns(CLOCK_BOOTTIME) / NS_PER_MS);
    put_number(&items, TAG_LOAD1, (uint64_t)info.loads[0] * 1000 >> SI_LOAD_SHIFT);
    put_number(&items, TAG_MEMORY_TOTAL, (uint64_t)info.totalram * info.mem_unit);
    put_number(&items, TAG_MEMORY_AVAILABLE, number_in("/proc/meminfo", "MemAvailable:") * 1024);
    put_disk(&items);
    put_number(&items, TAG_PROCESS_COUNT, process_count);
    put_number(&items, TAG_CPU_BUSY_MS, cpu_busy_ms());
    put_close(&items, item);
    answer_send(FRAME_ITEMS, &items);
}
