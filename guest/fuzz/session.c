/* Fuzz target: what a host may send in a session. The first byte says in pieces of which size it arrives (the low six
 * bits) and whether a HELLO and an open gate stand before it. The agent's children never run. */
#include "fuzz.h"

#include <signal.h>
#include <string.h>
#include <sys/resource.h>

#include "children.h"
#include "end.h"
#include "frame.h"
#include "gate.h"
#include "process.h"
#include "session.h"
#include "stream.h"

#define GREETED 0x40
#define INPUT_MAX (FRAME_WHOLE_MAX + 4096)

static const uint8_t hello[] = {25, 0, 0, 0, FRAME_HELLO, 0, 0, 0, 0, /* nonce */ 1, 2, 3, 4, 5, 6, 7, 8,
                                9,  10, 11, 12, 13, 14, 15, 16, /* version */ 1, 0, 0, 0};

static void prepare(void)
{
    static bool prepared;
    struct rlimit files = {.rlim_cur = 4096, .rlim_max = 4096};
    if (prepared)
        return;
    prepared = true;
    signal(SIGPIPE, SIG_IGN);
    setrlimit(RLIMIT_NOFILE, &files);
    processes_open();
    streams_open();
    session_open();
}

static void open_gate(void)
{
    static uint8_t bytes[256];
    struct writer gate = {.data = bytes, .room = sizeof bytes};
    const char *what;
    uint8_t entropy[32] = {0};
    put_field(&gate, TAG_ENTROPY, entropy, sizeof entropy);
    put_number(&gate, TAG_CLOCK_NS, 1);
    put_text(&gate, TAG_HOSTNAME, "h");
    put_text(&gate, TAG_MACHINE_ID, "0123456789abcdef0123456789abcdef");
    demand(gate_pass((struct span){gate.data, gate.size}, &what) == 0);
}

/* One round of the loop. Nobody reads the link: what is queued is dropped before it is too much. */
static void turn(void)
{
    ends_wait(0);
    processes_drain(streams_slowest);
    session_turn();
    demand(link_queued() < LINK_FULL + 2 * LINK_PAYLOAD);
    if (link_queued() >= LINK_BUSY)
        link_discard();
}

static void feed(struct span input, size_t piece)
{
    static uint8_t buffer[INPUT_MAX];
    size_t held = 0;
    for (size_t at = 0; at < input.size;) {
        size_t size = smaller(piece, smaller(input.size - at, sizeof buffer - held));
        memcpy(buffer + held, input.data + at, size);
        held += size;
        at += size;
        size_t taken = session_reader.take((struct span){buffer, held});
        demand(taken <= held);
        held -= taken;
        memmove(buffer, buffer + taken, held);
        turn();
    }
}

static void end_process(pid_t pid)
{
    if (!process_reaped(pid, 0))
        stream_reaped(pid);
}

/* Of one input nothing reaches the next but ended processes that are remembered. */
static void clear(void)
{
    size_t at = 0;
    struct process *process;
    session_reader.lost();
    children_end(end_process);
    for (int rounds = 0; rounds < 4; rounds++)
        turn();
    link_discard();
    gate_close();
    demand(stream_next(&at) == NULL);
    while ((process = process_next(&at)) != NULL)
        demand(process->readers == 0 && process->state == PROCESS_ENDED);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2 || size > FRAME_WHOLE_MAX)
        return 0;
    prepare();
    if (data[0] & GREETED) {
        open_gate();
        feed((struct span){hello, sizeof hello}, sizeof hello);
    }
    size_t piece = data[0] % GREETED;
    feed((struct span){data + 1, size - 1}, piece == 0 ? size : piece);
    clear();
    return 0;
}
