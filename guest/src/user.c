#include "user.h"

#include <grp.h>
#include <unistd.h>

#include "lines.h"

#define NUMBER_MAX 4294967294ul /* one less than "no change" */

/* Cuts `line` at its colons into exactly `count` parts. */
static bool split(char *line, char **parts, int count)
{
    for (int part = 0; part < count; part++) {
        parts[part] = line;
        char *colon = strchr(line, ':');
        if ((colon != NULL) == (part == count - 1))
            return false;
        if (colon != NULL) {
            *colon = '\0';
            line = colon + 1;
        }
    }
    return true;
}

static bool parse_number(const char *text, uint32_t *number)
{
    uint64_t value = 0;
    if (*text == '\0' || strlen(text) > 10)
        return false;
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9')
            return false;
        value = value * 10 + (uint64_t)(*text - '0');
    }
    *number = (uint32_t)value;
    return value <= NUMBER_MAX;
}

static bool copy_text(char *into, const char *text)
{
    size_t size = strlen(text);
    if (size >= USER_TEXT_MAX)
        return false;
    memcpy(into, text, size + 1);
    return true;
}

/* name:password:uid:gid:comment:home:shell */
static bool parse_entry(char *line, struct user *user)
{
    char *parts[7];
    return split(line, parts, 7) && parts[0][0] != '\0' && parse_number(parts[2], &user->uid) &&
           parse_number(parts[3], &user->gid) && copy_text(user->name, parts[0]) && copy_text(user->home, parts[5]) &&
           copy_text(user->shell, parts[6]);
}

static bool find_entry(const char *name, bool by_number, uint32_t number, struct user *user)
{
    struct lines lines;
    bool found = false;
    if (!lines_open(&lines, "/etc/passwd"))
        return false;
    for (char *line; !found && (line = lines_next(&lines)) != NULL;)
        found = parse_entry(line, user) && (by_number ? user->uid == number : strcmp(user->name, name) == 0);
    lines_close(&lines);
    return found;
}

/* An account that must not log in still may be run as; the shell that turns people away is of no use for that. */
static void choose_shell(struct user *user)
{
    const char *slash = strrchr(user->shell, '/');
    const char *program = slash == NULL ? user->shell : slash + 1;
    if (*program == '\0' || strcmp(program, "nologin") == 0 || strcmp(program, "false") == 0)
        copy_text(user->shell, "/bin/sh");
}

static bool says(struct span name, const char *text)
{
    return name.size == strlen(text) && memcmp(name.data, text, name.size) == 0;
}

bool user_is_own(struct span name)
{
    return name.size == 0 || (geteuid() == 0 && (says(name, "root") || says(name, "0")));
}

bool user_find(struct span name, struct user *user)
{
    char text[USER_TEXT_MAX] = "";
    uint32_t number = geteuid();
    if (name.size >= sizeof text)
        return false;
    if (name.size > 0)
        memcpy(text, name.data, name.size);
    bool by_number = user_is_own(name) || parse_number(text, &number);
    if (!find_entry(text, by_number, number, user)) {
        if (!by_number)
            return false;
        *user = (struct user){.uid = number, .gid = number, .home = "/"};
        if (number == 0)
            *user = (struct user){.name = "root", .home = "/root"};
    }
    if (user->home[0] != '/')
        copy_text(user->home, "/");
    choose_shell(user);
    return true;
}

/* name:password:gid:member,member */
static bool is_member(char *line, const char *name, uint32_t *gid)
{
    char *parts[4];
    if (!split(line, parts, 4) || !parse_number(parts[2], gid))
        return false;
    for (char *rest = parts[3], *member; (member = strsep(&rest, ",")) != NULL;)
        if (strcmp(member, name) == 0)
            return true;
    return false;
}

static size_t find_groups(const struct user *user, gid_t *groups)
{
    struct lines lines;
    size_t count = 1;
    groups[0] = user->gid;
    if (user->name[0] == '\0' || !lines_open(&lines, "/etc/group"))
        return count;
    uint32_t gid;
    for (char *line; count < USER_GROUPS_MAX && (line = lines_next(&lines)) != NULL;)
        if (is_member(line, user->name, &gid) && gid != user->gid)
            groups[count++] = gid;
    lines_close(&lines);
    return count;
}

bool user_become(const struct user *user)
{
    gid_t groups[USER_GROUPS_MAX];
    if (user->uid == geteuid() && user->gid == getegid())
        return true;
    return setgroups(find_groups(user, groups), groups) == 0 && setresgid(user->gid, user->gid, user->gid) == 0 &&
           setresuid(user->uid, user->uid, user->uid) == 0;
}
