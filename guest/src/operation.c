#include "operation.h"

#include "environment.h"
#include "jobs.h"
#include "process.h"

#define PATH_SIZE_MAX 4095
#define LIST_DEPTH_MAX 64
#define DRIVES_MAX 8

#define COUNT(rules) rules, sizeof rules / sizeof *rules
#define PATH_RULE {TAG_PATH, STRING, true, false, 1, PATH_SIZE_MAX}
#define USER_RULE {TAG_USER, TEXT, false, false, 1, 255}
#define PROCESS_ID_RULE {TAG_PROCESS_ID, TEXT, true, false, 1, PROCESS_ID_MAX}
#define NUMBER_RULE(tag) {tag, NUMBER, false, false, 0, 0}
#define FLAG_RULE(tag) {tag, FLAG, false, false, 0, 0}

static const struct rule exec_rules[] = {
    PROCESS_ID_RULE,
    {TAG_ARG, STRING, false, true, 0, FRAME_LENGTH_MAX},
    {TAG_SHELL, STRING, false, false, 0, FRAME_LENGTH_MAX},
    {TAG_CWD, STRING, false, false, 1, PATH_SIZE_MAX},
    {TAG_ENV, STRING, false, true, 2, FRAME_LENGTH_MAX},
    USER_RULE,
    NUMBER_RULE(TAG_TIMEOUT_MS),
    FLAG_RULE(TAG_STDIN),
    NUMBER_RULE(TAG_ROWS),
    NUMBER_RULE(TAG_COLS),
    FLAG_RULE(TAG_DETACHED),
};
static const struct rule attach_rules[] = {PROCESS_ID_RULE, FLAG_RULE(TAG_QUIET)};
static const struct rule input_rules[] = {PROCESS_ID_RULE, FLAG_RULE(TAG_LAST)};
static const struct rule kill_rules[] = {PROCESS_ID_RULE, {TAG_SIGNAL_NUMBER, NUMBER, true, false, 0, 0}};
static const struct rule read_rules[] = {PATH_RULE, USER_RULE, NUMBER_RULE(TAG_OFFSET), NUMBER_RULE(TAG_LENGTH)};
static const struct rule write_rules[] = {PATH_RULE, USER_RULE, NUMBER_RULE(TAG_FILE_MODE)};
static const struct rule list_rules[] = {PATH_RULE, USER_RULE, NUMBER_RULE(TAG_DEPTH)};
static const struct rule stat_rules[] = {PATH_RULE, USER_RULE, FLAG_RULE(TAG_NOFOLLOW)};
static const struct rule mkdir_rules[] = {PATH_RULE, USER_RULE, NUMBER_RULE(TAG_FILE_MODE)};
static const struct rule move_rules[] = {PATH_RULE, {TAG_TARGET, STRING, true, false, 1, PATH_SIZE_MAX}, USER_RULE};
static const struct rule remove_rules[] = {PATH_RULE, USER_RULE, FLAG_RULE(TAG_RECURSIVE)};
static const struct rule chmod_rules[] = {
    PATH_RULE, {TAG_FILE_MODE, NUMBER, true, false, 0, 0}, USER_RULE, FLAG_RULE(TAG_RECURSIVE)};
static const struct rule watch_rules[] = {PATH_RULE, USER_RULE, FLAG_RULE(TAG_RECURSIVE)};

static const struct rule mount_rules[] = {
    PATH_RULE, {TAG_DRIVE, NUMBER, true, false, 0, 0}, {TAG_SIZE, NUMBER, true, false, 0, 0}, FLAG_RULE(TAG_READ_ONLY)};
static const struct rule unmount_rules[] = {PATH_RULE};

static const struct rule dial_rules[] = {{TAG_PORT, NUMBER, true, false, 0, 0}};

static const struct operation_kind kinds[OP_LIMIT] = {
    [OP_EXEC] = {COUNT(exec_rules), NULL, CONTENT_NONE, false},
    [OP_ATTACH] = {COUNT(attach_rules), NULL, CONTENT_NONE, false},
    [OP_PROCESSES] = {NULL, 0, NULL, CONTENT_NONE, false},
    [OP_KILL] = {COUNT(kill_rules), NULL, CONTENT_NONE, false},
    [OP_READ] = {COUNT(read_rules), job_read, CONTENT_OUT, false},
    [OP_WRITE] = {COUNT(write_rules), job_write, CONTENT_IN, false},
    [OP_LIST] = {COUNT(list_rules), job_list, CONTENT_NONE, false},
    [OP_STAT] = {COUNT(stat_rules), job_stat, CONTENT_NONE, false},
    [OP_MKDIR] = {COUNT(mkdir_rules), job_mkdir, CONTENT_NONE, true},
    [OP_MOVE] = {COUNT(move_rules), job_move, CONTENT_NONE, true},
    [OP_REMOVE] = {COUNT(remove_rules), job_remove, CONTENT_NONE, true},
    [OP_CHMOD] = {COUNT(chmod_rules), job_chmod, CONTENT_NONE, true},
    [OP_WATCH] = {COUNT(watch_rules), job_watch, CONTENT_NONE, false},
    [OP_METRICS] = {NULL, 0, job_metrics, CONTENT_NONE, false},
    [OP_INPUT] = {COUNT(input_rules), NULL, CONTENT_NONE, false},
    [OP_DIAL] = {COUNT(dial_rules), NULL, CONTENT_NONE, false},
    [OP_PORTS] = {NULL, 0, job_ports, CONTENT_NONE, false},
    [OP_MOUNT] = {COUNT(mount_rules), job_mount, CONTENT_NONE, true},
    [OP_UNMOUNT] = {COUNT(unmount_rules), job_unmount, CONTENT_NONE, true},
};

const struct operation_kind *operation_kind(uint8_t operation)
{
    return operation >= OP_EXEC && operation < OP_LIMIT ? &kinds[operation] : NULL;
}

static bool number_within(const struct fields *fields, enum tag tag, uint64_t least, uint64_t most)
{
    uint64_t number = fields_number(fields, tag, least);
    return number >= least && number <= most;
}

static bool environment_is_sane(const struct fields *fields)
{
    struct span rest = fields->payload;
    struct field field;
    while (fields_next(&rest, &field))
        if (field.tag == TAG_ENV && !environment_fits(field.value))
            return false;
    return true;
}

static bool exec_fits(const struct fields *fields)
{
    return fields_has(fields, TAG_ARG) != fields_has(fields, TAG_SHELL) &&
           fields_has(fields, TAG_ROWS) == fields_has(fields, TAG_COLS) && number_within(fields, TAG_ROWS, 1, 65535) &&
           number_within(fields, TAG_COLS, 1, 65535) && environment_is_sane(fields);
}

bool operation_fits(uint8_t operation, const struct fields *fields)
{
    if (operation == OP_EXEC)
        return exec_fits(fields);
    return number_within(fields, TAG_SIGNAL_NUMBER, 1, 64) && number_within(fields, TAG_PORT, 1, 65535) &&
           number_within(fields, TAG_FILE_MODE, 0, 07777) && number_within(fields, TAG_DRIVE, 0, DRIVES_MAX - 1) &&
           number_within(fields, TAG_DEPTH, 1, LIST_DEPTH_MAX) &&
           number_within(fields, TAG_OFFSET, 0, INT64_MAX) && number_within(fields, TAG_LENGTH, 0, INT64_MAX);
}
