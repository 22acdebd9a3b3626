/* LIST and STAT. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "child.h"
#include "item.h"
#include "jobs.h"
#include "path.h"
#include "tree.h"

#define BATCH (16u * 1024) /* send what has come together from here on; an item fits behind it */

static struct writer batch;

static int tell(const struct visit *visit)
{
    if (visit->depth == 0)
        return S_ISDIR(visit->status->st_mode) ? 0 : ENOTDIR;
    item_put(&batch, visit->path, visit->path_size, visit->status, visit->directory, visit->name);
    if (batch.size < BATCH)
        return 0;
    answer_send(FRAME_ITEMS, &batch);
    batch = answer_begin();
    return 0;
}

/* Opened first: a PATH that is a link, or that cannot be read, is not passed over like a directory in the tree. */
void job_list(const struct fields *fields, int content)
{
    (void)content;
    const char *path = fields_string(fields, TAG_PATH);
    struct walk walk = {.enter = tell, .depth = (int)fields_number(fields, TAG_DEPTH, 1), .forgiving = true};
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        answer_done(errno, path);
    batch = answer_begin();
    int error = tree_walk(directory, ".", &walk);
    if (error != 0)
        answer_done(error, path);
    if (batch.size > 0)
        answer_send(FRAME_ITEMS, &batch);
}

void job_stat(const struct fields *fields, int content)
{
    (void)content;
    struct stat status;
    size_t size;
    const char *path = fields_string(fields, TAG_PATH);
    int flags = fields_flag(fields, TAG_NOFOLLOW) ? AT_SYMLINK_NOFOLLOW : 0;
    if (fstatat(AT_FDCWD, path, &status, flags) != 0)
        answer_done(errno, path);
    const char *name = path_name(path, &size);
    batch = answer_begin();
    item_put(&batch, size == 0 ? "/" : name, size == 0 ? 1 : size, &status, AT_FDCWD, path);
    answer_send(FRAME_ITEMS, &batch);
}
