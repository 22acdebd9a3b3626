/* READ. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "child.h"
#include "content.h"
#include "item.h"
#include "jobs.h"

#define PIPE_DEFAULT (64 * 1024)

static int open_content(const char *path, struct stat *status)
{
    int file = open(path, O_RDONLY | O_NOCTTY | O_CLOEXEC);
    if (file < 0 || fstat(file, status) != 0)
        answer_done(errno, path);
    if (S_ISDIR(status->st_mode))
        answer_done(EISDIR, path);
    return file;
}

void job_read(const struct fields *fields, int content)
{
    struct stat status;
    uint64_t moved = 0;
    const char *path = fields_string(fields, TAG_PATH);
    off_t offset = (off_t)fields_number(fields, TAG_OFFSET, 0);
    int file = open_content(path, &status);
    if (offset > 0 && lseek(file, offset, SEEK_SET) < 0)
        answer_done(errno, path);
    struct writer opened = answer_begin();
    item_put_status(&opened, &status);
    answer_send(FRAME_OPENED, &opened);
    if (status.st_size > PIPE_DEFAULT)
        content_widen(content);
    if (!content_move(file, content, fields_number(fields, TAG_LENGTH, UINT64_MAX), &moved))
        answer_done(errno, path);
}
