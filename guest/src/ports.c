/* PORTS: what listens in the machine, of any user. */
#include <stdio.h>
#include <string.h>

#include "child.h"
#include "jobs.h"
#include "lines.h"

#define LISTENING 0x0a
#define ADDRESS_DIGITS 32
#define PORTS_ALL 65536
#define BATCH (16u * 1024)

enum heard { SILENT, LOOPBACK, EVERYWHERE };

static uint8_t heard[PORTS_ALL];

/* The tables write addresses as words of the machine's own order, which is little-endian: 127.0.0.1 is 0100007F. */
static bool is_loopback(const char *address)
{
    if (strlen(address) == 8)
        return strcmp(address + 6, "7F") == 0;
    return strcmp(address, "00000000000000000000000001000000") == 0 ||
           (strncmp(address, "0000000000000000FFFF0000", 24) == 0 && strcmp(address + 30, "7F") == 0);
}

/* A line is "slot: address:port address:port state ...", all in hexadecimal digits. */
static void take_table(const char *path)
{
    struct lines lines;
    char address[ADDRESS_DIGITS + 1];
    unsigned port;
    unsigned state;
    if (!lines_open(&lines, path))
        return;
    for (char *line; (line = lines_next(&lines)) != NULL;) {
        if (sscanf(line, " %*u: %32[0-9A-F]:%x %*32[0-9A-F]:%*x %x", address, &port, &state) != 3)
            continue;
        if (state != LISTENING || port == 0 || port >= PORTS_ALL || heard[port] == EVERYWHERE)
            continue;
        heard[port] = is_loopback(address) ? LOOPBACK : EVERYWHERE;
    }
    lines_close(&lines);
}

void job_ports(const struct fields *fields, int content)
{
    (void)fields;
    (void)content;
    struct writer batch = answer_begin();
    take_table("/proc/net/tcp");
    take_table("/proc/net/tcp6");
    for (unsigned port = 1; port < PORTS_ALL; port++) {
        if (heard[port] == SILENT)
            continue;
        size_t item = put_open(&batch, TAG_ITEM);
        put_number(&batch, TAG_PORT, port);
        put_number(&batch, TAG_LOOPBACK, heard[port] == LOOPBACK);
        put_close(&batch, item);
        if (batch.size < BATCH)
            continue;
        answer_send(FRAME_ITEMS, &batch);
        batch = answer_begin();
    }
    if (batch.size > 0)
        answer_send(FRAME_ITEMS, &batch);
}
