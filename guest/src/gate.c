#include "gate.h"

#include <errno.h>
#include <string.h>

#include "clock.h"
#include "environment.h"
#include "freezer.h"
#include "generation.h"
#include "guard.h"
#include "hooks.h"
#include "machine.h"
#include "network.h"
#include "wipe.h"

/* What passing did. */
struct proof {
    size_t entropy; /* bytes */
    uint64_t clock_step_us;
    bool clock_back;
    char boot_id[BOOT_ID_SIZE + 1]; /* empty: left alone */
    uint64_t spent_us;
    bool told; /* `spent_us` is known */
};

static bool passed; /* and open, unless hooks still run */
static bool own_machine;
static uint8_t passed_id[MACHINE_ID_SIZE];
static uint64_t began;
static struct proof proof;

static const struct rule rules[] = {
    {TAG_ENTROPY, BLOB, true, false, 32, ENTROPY_MAX},
    {TAG_CLOCK_NS, NUMBER, true, false, 0, 0},
    {TAG_HOSTNAME, TEXT, true, false, 1, HOSTNAME_MAX},
    {TAG_MACHINE_ID, TEXT, true, false, MACHINE_ID_SIZE, MACHINE_ID_SIZE},
    {TAG_ENV, STRING, false, true, 2, FRAME_LENGTH_MAX},
    {TAG_NET_ADDRESS, TEXT, false, false, 9, 18},
    {TAG_NET_GATEWAY, TEXT, false, false, 7, 15},
    {TAG_NET_DNS, TEXT, false, false, 7, 15},
    {TAG_NET_MAC, TEXT, false, false, 17, 17},
    {TAG_FRESH, FLAG, false, false, 0, 0},
    {TAG_HOOK_MS, NUMBER, false, false, 0, 0},
};

static bool is_hex(struct span text)
{
    for (size_t at = 0; at < text.size; at++)
        if (memchr("0123456789abcdef", text.data[at], 16) == NULL)
            return false;
    return true;
}

static bool environment_is_sane(struct span payload)
{
    struct field field;
    while (fields_next(&payload, &field))
        if (field.tag == TAG_ENV && !environment_fits(field.value))
            return false;
    return true;
}

static bool parse(struct span payload, struct fields *fields, struct network *network)
{
    if (!fields_parse(payload, rules, sizeof rules / sizeof *rules, fields))
        return false;
    uint64_t hook_ms = fields_number(fields, TAG_HOOK_MS, HOOK_MS_DEFAULT);
    return hook_ms >= 1 && hook_ms <= HOOK_MS_MAX && is_hex(fields->value[TAG_MACHINE_ID]) &&
           environment_is_sane(payload) && network_parse(fields, network);
}

void gate_own_machine(void)
{
    own_machine = true;
}

bool gate_is_open(void)
{
    return passed && !hooks_running();
}

void gate_close(void)
{
    passed = false;
    hooks_stop();
}

void gate_seal(void)
{
    gate_close();
    hooks_seal();
    wipe_seal();
}

static void note_clock(uint64_t wall_ns)
{
    uint64_t now = clock_ns(CLOCK_REALTIME);
    proof.clock_back = wall_ns < now;
    proof.clock_step_us = (proof.clock_back ? now - wall_ns : wall_ns - now) / NS_PER_US;
}

/* Entropy first: the boot id is made from what the kernel's generator gives from then on. */
static bool renew(const struct fields *fields, const char **what)
{
    uint64_t wall_ns = fields_number(fields, TAG_CLOCK_NS, 0);
    proof.entropy = fields->value[TAG_ENTROPY].size;
    note_clock(wall_ns);
    return (*what = "entropy", machine_add_entropy(fields->value[TAG_ENTROPY])) &&
           (*what = "clock", machine_set_clock(wall_ns)) &&
           (*what = "hostname", machine_set_hostname(fields->value[TAG_HOSTNAME])) &&
           (*what = "machine id", machine_set_id(fields->value[TAG_MACHINE_ID])) &&
           (*what = "boot id", machine_renew_boot_id(proof.boot_id));
}

/* Whether this is the machine that the gate was passed for: the host repeats a GATE whose answer got lost. */
static bool is_passed_for(struct span id)
{
    return passed && memcmp(id.data, passed_id, MACHINE_ID_SIZE) == 0;
}

/* From here on the gate is closed until every step has been made. What may wait for the disk, and so let others run, comes
 * when nothing is left that siblings share. */
static int begin_life(const struct fields *fields, const struct network *network, const char **what)
{
    gate_close();
    began = monotonic_ns();
    proof = (struct proof){0};
    if (!environment_keep(fields))
        return E2BIG;
    if (own_machine && !renew(fields, what))
        return errno;
    *what = "generation";
    if (!generation_renew(fields->value[TAG_MACHINE_ID]))
        return errno;
    guard_release();
    freezer_release();
    wipe_all();
    *what = "network";
    if (own_machine && !network_set(network))
        return errno;
    memcpy(passed_id, fields->value[TAG_MACHINE_ID].data, sizeof passed_id);
    passed = true;
    hooks_start(fields->value[TAG_MACHINE_ID], fields->value[TAG_HOSTNAME],
                (uint32_t)fields_number(fields, TAG_HOOK_MS, HOOK_MS_DEFAULT));
    return 0;
}

int gate_pass(struct span payload, const char **what)
{
    struct fields fields;
    struct network network;
    *what = "gate";
    if (!parse(payload, &fields, &network))
        return EPROTO;
    if (is_passed_for(fields.value[TAG_MACHINE_ID]))
        return 0;
    if (gate_is_open() && !fields_flag(&fields, TAG_FRESH))
        return EALREADY;
    return begin_life(&fields, &network, what);
}

void gate_tell(struct writer *writer)
{
    if (!proof.told)
        proof.spent_us = (monotonic_ns() - began) / NS_PER_US;
    proof.told = true;
    put_number(writer, TAG_SPENT_US, proof.spent_us);
    put_number(writer, TAG_ENTROPY_BYTES, proof.entropy);
    put_number(writer, TAG_CLOCK_STEP_US, proof.clock_step_us);
    put_number(writer, TAG_CLOCK_BACK, proof.clock_back);
    if (proof.boot_id[0] != '\0')
        put_text(writer, TAG_BOOT_ID, proof.boot_id);
    hooks_tell(writer);
    wipe_tell(writer);
}
