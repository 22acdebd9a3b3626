#include "process.h"

#include <errno.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "child.h"
#include "clock.h"
#include "descent.h"
#include "launch.h"
#include "memory.h"
#include "terminal.h"

#define REMEMBERED 32 /* ended processes that were not detached, before a slot is used again */

static struct process processes[PROCESSES_MAX];
static bool pending[PROCESSES_MAX]; /* bells: some end of the process is ready */
static size_t slots_used;           /* no slot from here on was ever used */
static uint64_t ends_counted;
static uint64_t soonest; /* of all deadlines */
static bool soonest_known;
static PAGE_ALIGNED uint8_t replay_bytes[PROCESSES_MAX][REPLAY_SIZE];

void processes_open(void)
{
    memory_keep_from_children(replay_bytes, sizeof replay_bytes);
}

struct process *process_next(size_t *at)
{
    while (*at < slots_used) {
        struct process *process = &processes[(*at)++];
        if (process->state != PROCESS_FREE)
            return process;
    }
    return NULL;
}

struct process *process_find(struct span id)
{
    size_t at = 0;
    for (struct process *process; (process = process_next(&at)) != NULL;)
        if (process->id_size == id.size && memcmp(process->id, id.data, id.size) == 0)
            return process;
    return NULL;
}

static bool is_over(const struct process *process)
{
    return process->state == PROCESS_ENDED && process->settled && process->readers == 0 && process->output[0].fd < 0 &&
           process->output[1].fd < 0;
}

/* The ended process to forget first: those not detached before the others, the oldest first. */
static struct process *oldest_over(size_t *plain)
{
    struct process *oldest = NULL;
    size_t at = 0;
    for (struct process *process; (process = process_next(&at)) != NULL;) {
        if (!is_over(process))
            continue;
        *plain += !process->detached;
        if (oldest == NULL || process->detached < oldest->detached ||
            (process->detached == oldest->detached && process->end_number < oldest->end_number))
            oldest = process;
    }
    return oldest;
}

static struct process *free_slot(void)
{
    size_t plain = 0;
    struct process *oldest = oldest_over(&plain);
    if (plain >= REMEMBERED)
        return oldest;
    for (size_t at = 0; at < PROCESSES_MAX; at++)
        if (at == slots_used || processes[at].state == PROCESS_FREE) {
            slots_used += at == slots_used;
            return &processes[at];
        }
    return oldest;
}

static void close_ends(struct process *process)
{
    end_close(&process->talk);
    end_close(&process->output[0]);
    end_close(&process->output[1]);
    end_close(&process->input);
}

/* A slot as if it had never been used; its ends are closed already. */
static void blank(struct process *process)
{
    size_t slot = (size_t)(process - processes);
    if (process->replay.errors)
        memset(process->replay.on_error, 0, sizeof process->replay.on_error);
    memset(process, 0, offsetof(struct process, replay));
    process->replay.bytes = replay_bytes[slot];
    process->replay.written = 0;
    process->replay.errors = false;
    process->talk = process->output[0] = process->output[1] = process->input = END_CLOSED;
    pending[slot] = false;
}

void processes_forget_plain(void)
{
    size_t at = 0;
    for (struct process *process; (process = process_next(&at)) != NULL;)
        if (is_over(process) && !process->detached) {
            close_ends(process);
            blank(process);
        }
}

void process_let_go(struct process *process)
{
    if (process->state == PROCESS_FAILED && process->readers == 0) {
        close_ends(process);
        process->state = PROCESS_FREE;
    }
}

static void set_deadline(struct process *process, uint64_t deadline)
{
    soonest_known &= process->deadline == deadline;
    process->deadline = deadline;
}

static void remember(struct process *process, const struct fields *fields)
{
    struct span id = fields->value[TAG_PROCESS_ID];
    struct span command = fields->value[fields_has(fields, TAG_SHELL) ? TAG_SHELL : TAG_ARG];
    uint64_t limit = fields_number(fields, TAG_TIMEOUT_MS, 0);
    process->id_size = id.size;
    memcpy(process->id, id.data, id.size);
    process->command_size = smaller(command.size, COMMAND_MAX);
    memcpy(process->command, command.data, process->command_size);
    process->detached = fields_flag(fields, TAG_DETACHED);
    process->fed = process->terminal || fields_flag(fields, TAG_STDIN);
    process->started_ns = clock_ns(CLOCK_REALTIME);
    bool endless = limit == 0 || limit > (NEVER - process->began) / NS_PER_MS;
    set_deadline(process, endless ? NEVER : process->began + limit * NS_PER_MS);
}

struct process *process_start(const struct fields *fields)
{
    if (process_find(fields->value[TAG_PROCESS_ID]) != NULL) {
        errno = EEXIST;
        return NULL;
    }
    struct process *process = free_slot();
    if (process == NULL) {
        errno = EAGAIN;
        return NULL;
    }
    if (process->state != PROCESS_FREE)
        close_ends(process);
    blank(process);
    process->began = monotonic_ns();
    if (!launch(process, fields, &pending[process - processes]))
        return NULL;
    remember(process, fields);
    process->state = PROCESS_STARTING;
    return process;
}

static bool is_alive(const struct process *process)
{
    return process->state == PROCESS_RUNNING || process->state == PROCESS_STARTING;
}

bool process_signal(const struct process *process, int number)
{
    if (is_alive(process))
        return kill(-process->pid, number) == 0;
    errno = ESRCH;
    return false;
}

void process_resize(const struct process *process, uint16_t rows, uint16_t columns)
{
    if (process->terminal && process->output[0].fd >= 0)
        terminal_resize(process->output[0].fd, rows, columns);
}

bool process_size(const struct process *process, uint16_t *rows, uint16_t *columns)
{
    return process->terminal && process->output[0].fd >= 0 && terminal_size(process->output[0].fd, rows, columns);
}

bool process_takes_input(const struct process *process)
{
    return is_alive(process) && (process->terminal || process->input.fd >= 0);
}

size_t process_write(struct process *process, struct span bytes)
{
    struct end *end = process->terminal ? &process->output[0] : &process->input;
    if (end->fd < 0)
        return bytes.size;
    ssize_t sent = write(end->fd, bytes.data, bytes.size);
    if (sent >= 0)
        return (size_t)sent;
    if (errno == EAGAIN) {
        if (!end->watched && !end_watch(end, EPOLLOUT))
            end_close(end);
        return 0;
    }
    if (!process->terminal)
        end_close(end);
    return bytes.size;
}

void process_end_input(struct process *process)
{
    static const uint8_t end_of_transmission = 4;
    if (process->terminal)
        process_write(process, (struct span){&end_of_transmission, 1});
    else
        end_close(&process->input);
}

uint64_t processes_deadline(void)
{
    size_t at = 0;
    if (soonest_known)
        return soonest;
    soonest = NEVER;
    soonest_known = true;
    for (struct process *process; (process = process_next(&at)) != NULL;)
        if (process->deadline < soonest)
            soonest = process->deadline;
    return soonest;
}

void processes_expire(void)
{
    uint64_t now = monotonic_ns();
    size_t at = 0;
    for (struct process *process; (process = process_next(&at)) != NULL;) {
        if (process->deadline > now)
            continue;
        set_deadline(process, NEVER);
        descent_kill(process->pid);
        process->timed_out = process_signal(process, SIGKILL);
    }
}

/* The talk ends without a word when the program runs. */
static void hear(struct process *process)
{
    uint8_t type;
    struct writer failure = {.data = process->failure, .room = sizeof process->failure};
    ssize_t got = talk_receive(process->talk.fd, &type, &failure);
    if (got < 0) {
        process->talk.ready = false;
        return;
    }
    process->failure_size = failure.size;
    process->state = got == 0 ? PROCESS_RUNNING : PROCESS_FAILED;
    end_close(&process->talk);
    if (process->state == PROCESS_FAILED)
        set_deadline(process, NEVER);
}

static size_t unread(int fd)
{
    int count = 0;
    return fd >= 0 && ioctl(fd, FIONREAD, &count) == 0 ? (size_t)count : 0;
}

bool process_reaped(pid_t pid, int status)
{
    size_t at = 0;
    struct process *process;
    while ((process = process_next(&at)) != NULL)
        if (process->pid == pid && is_alive(process))
            break;
    if (process == NULL)
        return false;
    if (process->state == PROCESS_STARTING)
        hear(process);
    if (process->state == PROCESS_FAILED)
        return true;
    process->state = PROCESS_ENDED;
    process->exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    process->duration_us = (monotonic_ns() - process->began) / NS_PER_US;
    set_deadline(process, NEVER);
    process->end_number = ++ends_counted;
    /* A terminal's bytes pass through a work queue of the kernel: only reading until nothing comes finds them all. */
    for (int index = 0; index < 2; index++)
        process->left[index] = process->terminal ? REPLAY_SIZE : unread(process->output[index].fd);
    end_close(&process->input);
    pending[process - processes] = true;
    process->output[0].ready = process->output[1].ready = true;
    return true;
}

/* One read of one output, as far as its readers leave room. True when bytes moved or the end came. */
static bool drain(struct process *process, int index, uint64_t slowest)
{
    struct end *end = &process->output[index];
    size_t room = REPLAY_SIZE - (size_t)(process->replay.written - slowest);
    if (end->fd < 0 || !end->ready || room == 0)
        return false;
    struct iovec pieces[2];
    int count = replay_room(&process->replay, room, pieces);
    ssize_t got = end_read(end, pieces, count);
    if (got < 0 && errno == EAGAIN) {
        process->left[index] = 0;
        return false;
    }
    if (got <= 0) {
        process->left[index] = 0;
        end_close(end);
        return true;
    }
    process->left[index] -= smaller(process->left[index], (size_t)got);
    end->ready |= process->left[index] > 0; /* no event will tell of what came before the end */
    replay_add(&process->replay, (size_t)got, index == 0 ? CHANNEL_OUT : CHANNEL_ERROR);
    return true;
}

static bool is_settled(const struct process *process)
{
    for (int index = 0; index < 2; index++)
        if (process->output[index].fd >= 0 && process->left[index] > 0)
            return false;
    return process->state == PROCESS_ENDED;
}

bool processes_drain(uint64_t (*slowest)(const struct process *process))
{
    bool moved = false;
    for (size_t slot = 0; slot < slots_used; slot++) {
        struct process *process = &processes[slot];
        if (!pending[slot])
            continue;
        if (process->talk.fd >= 0 && process->talk.ready)
            hear(process);
        moved |= drain(process, 0, slowest(process));
        moved |= drain(process, 1, slowest(process));
        if (!process->settled && is_settled(process)) {
            process->settled = moved = true;
            process->final = process->replay.written;
        }
        pending[slot] = (process->output[0].fd >= 0 && process->output[0].ready) ||
                        (process->output[1].fd >= 0 && process->output[1].ready);
    }
    return moved;
}
