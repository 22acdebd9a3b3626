/* WATCH. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "child.h"
#include "jobs.h"
#include "tree.h"

#define WATCHES_MAX 8192
#define NAMES_SIZE (1024u * 1024)
#define BATCH (16u * 1024)
#define EVENTS                                                                                                         \
    (IN_CREATE | IN_MODIFY | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF |     \
     IN_EXCL_UNLINK)

/* A watched directory, by its path from the root of the watch; the root itself is "". */
struct watched {
    int number; /* the kernel's; 0: no longer */
    const char *path;
};

static struct watched watches[WATCHES_MAX];
static size_t watch_count;
static char names[NAMES_SIZE];
static size_t names_size;

static int notify = -1;
static const char *root;
static bool recursive;
static struct writer batch;
static size_t last_item; /* where the newest item of the batch begins: the same event twice in a row is told once */

static void flush(void)
{
    if (batch.size > 0)
        answer_send(FRAME_ITEMS, &batch);
    batch = answer_begin();
    last_item = 0;
}

static void tell(const char *path, const char *event)
{
    size_t before = batch.size;
    size_t item = put_open(&batch, TAG_ITEM);
    put_text(&batch, TAG_NAME, *path == '\0' ? "." : path);
    put_text(&batch, TAG_EVENT, event);
    put_close(&batch, item);
    size_t size = batch.size - before;
    if (before - last_item == size && memcmp(batch.data + last_item, batch.data + before, size) == 0)
        batch.size = before;
    else
        last_item = before;
    if (batch.size >= BATCH)
        flush();
}

/* False when the tables are full. */
static bool remember(int number, const char *path, size_t size)
{
    if (watch_count == WATCHES_MAX || size >= NAMES_SIZE - names_size)
        return false;
    watches[watch_count++] = (struct watched){number, names + names_size};
    memcpy(names + names_size, path, size);
    names[names_size + size] = '\0';
    names_size += size + 1;
    return true;
}

static bool full_path(const char *path, char into[PATH_MAX])
{
    int size = snprintf(into, PATH_MAX, *path == '\0' ? "%s" : "%s/%s", root, path);
    return size > 0 && size < PATH_MAX;
}

/* Where the walk of the tree at `path` begins: the root is walked also when it is a link to a directory. */
static bool walk_path(const char *path, char into[PATH_MAX])
{
    return full_path(*path == '\0' ? "." : path, into);
}

/* Watches the directory at `path` below the root. 0 or an errno. */
static int watch_one(const char *path, size_t size, uint32_t flags)
{
    char full[PATH_MAX];
    if (!full_path(path, full))
        return ENAMETOOLONG;
    int number = inotify_add_watch(notify, full, EVENTS | flags);
    if (number < 0)
        return errno;
    return remember(number, path, size) ? 0 : ENOSPC;
}

/* The walk of a new tree below `prefix`: what is in it may have come before its watch did, so it is told as created. */
static char prefix[PATH_MAX];
static bool telling;

static int watch_entry(const struct visit *visit)
{
    char path[PATH_MAX];
    const char *between = *prefix != '\0' && visit->depth > 0 ? "/" : "";
    int size = snprintf(path, sizeof path, "%s%s%s", prefix, between, visit->path);
    if (size < 0 || (size_t)size >= sizeof path)
        return ENAMETOOLONG;
    if (telling && visit->depth > 0)
        tell(path, "create");
    if (!S_ISDIR(visit->status->st_mode) || (visit->depth == 0 && *prefix == '\0'))
        return 0;
    int error = watch_one(path, (size_t)size, IN_ONLYDIR | IN_DONT_FOLLOW);
    return error == ENOSPC || error == ENOMEM ? error : 0;
}

/* Watches what is in the tree at `path`, and that itself when it is not the root. 0 or an errno. */
static int watch_tree(const char *path, bool tell_it)
{
    static const struct walk walk = {.enter = watch_entry, .depth = TREE_DEPTH_MAX, .forgiving = true};
    char full[PATH_MAX];
    if (!walk_path(path, full))
        return 0;
    snprintf(prefix, sizeof prefix, "%s", path);
    telling = tell_it;
    return tree_walk(AT_FDCWD, full, &walk);
}

static bool is_within(const char *path, const char *tree)
{
    size_t size = strlen(tree);
    return strncmp(path, tree, size) == 0 && (path[size] == '/' || path[size] == '\0');
}

static void forget_tree(const char *path)
{
    for (size_t at = 0; at < watch_count; at++)
        if (watches[at].number != 0 && is_within(watches[at].path, path)) {
            inotify_rm_watch(notify, watches[at].number);
            watches[at].number = 0;
        }
}

static const struct watched *watch_of(int number)
{
    for (size_t at = watch_count; at-- > 0;)
        if (watches[at].number == number)
            return &watches[at];
    return NULL;
}

/* All watches anew: at the start, when events were lost, and when the tables are full of what is gone. */
static int begin(void)
{
    if (notify >= 0)
        close(notify);
    notify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    watch_count = names_size = 0;
    int error = notify < 0 ? errno : watch_one("", 0, 0);
    return error == 0 && recursive ? watch_tree("", false) : error;
}

static void begin_again(void)
{
    tell(".", "overflow");
    int error = begin();
    if (error == 0)
        return;
    flush();
    answer_done(error, root);
}

static const char *name_of(uint32_t mask)
{
    if (mask & (IN_CREATE | IN_MOVED_TO))
        return "create";
    if (mask & IN_DELETE)
        return "remove";
    if (mask & IN_MOVED_FROM)
        return "move";
    return mask & IN_ATTRIB ? "attrib" : mask & IN_MODIFY ? "modify" : NULL;
}

/* Of a directory that is watched itself its parent tells too; only the root has nobody else. */
static void take_self_event(const struct watched *watched, uint32_t mask)
{
    if (watched->path[0] != '\0')
        return;
    if (mask & (IN_DELETE_SELF | IN_MOVE_SELF)) {
        tell(".", mask & IN_DELETE_SELF ? "remove" : "move");
        flush();
        answer_done(ENOENT, root);
    }
    if (name_of(mask) != NULL)
        tell(".", name_of(mask));
}

/* False when the watches have to be begun again. */
static bool take_event(const struct inotify_event *event)
{
    char path[PATH_MAX];
    if (event->mask & IN_Q_OVERFLOW)
        return false;
    const struct watched *watched = watch_of(event->wd);
    if (watched == NULL || event->mask & IN_IGNORED)
        return true;
    if (event->len == 0) {
        take_self_event(watched, event->mask);
        return true;
    }
    const char *between = watched->path[0] == '\0' ? "" : "/";
    int size = snprintf(path, sizeof path, "%s%s%s", watched->path, between, event->name);
    if (size < 0 || (size_t)size >= sizeof path || name_of(event->mask) == NULL)
        return true;
    tell(path, name_of(event->mask));
    if (!recursive || !(event->mask & IN_ISDIR))
        return true;
    if (event->mask & (IN_MOVED_FROM | IN_DELETE))
        forget_tree(path);
    return !(event->mask & (IN_CREATE | IN_MOVED_TO)) || watch_tree(path, true) == 0;
}

/* Everything that has happened. False when the watches have to be begun again. */
static bool take_events(void)
{
    _Alignas(struct inotify_event) char buffer[16 * 1024];
    ssize_t got = read(notify, buffer, sizeof buffer);
    for (ssize_t at = 0; at < got;) {
        const struct inotify_event *event = (const struct inotify_event *)(buffer + at);
        if (!take_event(event))
            return false;
        at += (ssize_t)(sizeof *event + event->len);
    }
    return true;
}

void job_watch(const struct fields *fields, int content)
{
    (void)content;
    root = fields_string(fields, TAG_PATH);
    recursive = fields_flag(fields, TAG_RECURSIVE);
    int error = begin();
    if (error != 0)
        answer_done(error, root);
    struct writer opened = answer_begin();
    answer_send(FRAME_OPENED, &opened);
    batch = answer_begin();
    for (;;) {
        struct pollfd ends[2] = {{.fd = notify, .events = POLLIN}, answer_listener()};
        if (poll(ends, 2, -1) < 0 && errno != EINTR)
            answer_done(errno, root);
        if (ends[1].revents != 0)
            _exit(0);
        if (!take_events())
            begin_again();
        flush();
    }
}
