#include "environment.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "child.h"
#include "lines.h"

#define ENTRIES_MAX 2048
#define GATE_BYTES_MAX (64u * 1024)
#define OWN_BYTES_MAX (32u * 1024)

/* The gate's entries, each ended by NUL. */
static char gate_entries[GATE_BYTES_MAX];
static size_t gate_size;

/* What a child builds; one that shares the agent's memory leaves it behind. */
static char *entries[ENTRIES_MAX + 1];
static size_t count;
static char own[OWN_BYTES_MAX];
static size_t own_size;

bool environment_fits(struct span entry)
{
    const uint8_t *equals = entry.size == 0 ? NULL : memchr(entry.data, '=', entry.size);
    return equals != NULL && equals > entry.data;
}

bool environment_keep(const struct fields *gate)
{
    size_t size = 0;
    struct span rest = gate->payload;
    struct field field;
    while (fields_next(&rest, &field))
        size += field.tag == TAG_ENV ? field.value.size + 1 : 0;
    if (size > sizeof gate_entries)
        return false;
    gate_size = 0;
    rest = gate->payload;
    while (fields_next(&rest, &field))
        if (field.tag == TAG_ENV) {
            memcpy(gate_entries + gate_size, field.value.data, field.value.size);
            gate_entries[gate_size + field.value.size] = '\0';
            gate_size += field.value.size + 1;
        }
    return true;
}

/* Adds an entry that lives on, in the place of one of the same name. */
static void set(char *entry, size_t name_size)
{
    size_t at = 0;
    while (at < count && strncmp(entries[at], entry, name_size + 1) != 0)
        at++;
    if (at == ENTRIES_MAX)
        answer_done(E2BIG, "environment");
    entries[at] = entry;
    count += at == count;
}

static void set_own(const char *name, const char *value)
{
    size_t room = sizeof own - own_size;
    int size = snprintf(own + own_size, room, "%s=%s", name, value);
    if (size < 0 || (size_t)size >= room)
        answer_done(E2BIG, "environment");
    set(own + own_size, strlen(name));
    own_size += (size_t)size + 1;
}

static void set_defaults(const struct user *user, bool terminal)
{
    set_own("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    set_own("HOME", user->home);
    set_own("SHELL", user->shell);
    set_own("LANG", "C.UTF-8");
    if (user->name[0] != '\0') {
        set_own("USER", user->name);
        set_own("LOGNAME", user->name);
    }
    if (terminal)
        set_own("TERM", "xterm-256color");
}

/* A value in a pair of quotes is what stands between them. */
static char *unquote(char *value)
{
    size_t size = strlen(value);
    if (size < 2 || (value[0] != '"' && value[0] != '\'') || value[size - 1] != value[0])
        return value;
    value[size - 1] = '\0';
    return value + 1;
}

/* `NAME=value` or `export NAME=value` a line; others, as comments are, do not count. */
static void set_line(char *line)
{
    line += strspn(line, " \t");
    if (strncmp(line, "export ", 7) == 0)
        line += 7 + strspn(line + 7, " \t");
    char *equals = strchr(line, '=');
    if (*line == '#' || equals == NULL || equals == line)
        return;
    char *end = equals + strlen(equals);
    while (end[-1] == ' ' || end[-1] == '\t' || end[-1] == '\r')
        *--end = '\0';
    *equals = '\0';
    set_own(line, unquote(equals + 1));
}

static void set_system_wide(void)
{
    struct lines lines;
    if (!lines_open(&lines, "/etc/environment"))
        return;
    for (char *line; (line = lines_next(&lines)) != NULL;)
        set_line(line);
    lines_close(&lines);
}

static void set_gate(void)
{
    for (size_t at = 0; at < gate_size; at += strlen(gate_entries + at) + 1)
        set(gate_entries + at, (size_t)(strchr(gate_entries + at, '=') - (gate_entries + at)));
}

static void set_asked(const struct fields *exec)
{
    struct span rest = exec->payload;
    struct field field;
    while (fields_next(&rest, &field))
        if (field.tag == TAG_ENV) {
            const uint8_t *equals = memchr(field.value.data, '=', field.value.size);
            set((char *)(uintptr_t)field.value.data, (size_t)(equals - field.value.data));
        }
}

void environment_build(const struct fields *exec, const struct user *user, bool terminal)
{
    count = own_size = 0;
    set_defaults(user, terminal);
    set_system_wide();
    set_gate();
    set_asked(exec);
    entries[count] = NULL;
    environ = entries;
}
