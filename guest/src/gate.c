#include "gate.h"

#include <errno.h>
#include <string.h>

#include "environment.h"
#include "machine.h"
#include "network.h"

static bool open_now;
static bool own_machine;
static uint8_t passed_id[MACHINE_ID_SIZE];

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
    return fields_parse(payload, rules, sizeof rules / sizeof *rules, fields) &&
           is_hex(fields->value[TAG_MACHINE_ID]) && environment_is_sane(payload) && network_parse(fields, network);
}

void gate_own_machine(void)
{
    own_machine = true;
}

bool gate_is_open(void)
{
    return open_now;
}

void gate_close(void)
{
    open_now = false;
}

/* Entropy first: the boot id is made from what the kernel's generator gives from then on. */
static bool set_machine(const struct fields *fields, const struct network *network, const char **what)
{
    return (*what = "entropy", machine_add_entropy(fields->value[TAG_ENTROPY])) &&
           (*what = "clock", machine_set_clock(fields_number(fields, TAG_CLOCK_NS, 0))) &&
           (*what = "hostname", machine_set_hostname(fields->value[TAG_HOSTNAME])) &&
           (*what = "machine id", machine_set_id(fields->value[TAG_MACHINE_ID])) &&
           (*what = "boot id", machine_renew_boot_id()) &&
           (*what = "network", network_set(network));
}

/* Whether this is the machine that the gate was opened for: the host repeats a GATE whose answer got lost. */
static bool is_machine(struct span id, const uint8_t *known)
{
    return id.size == MACHINE_ID_SIZE && memcmp(id.data, known, MACHINE_ID_SIZE) == 0;
}

int gate_pass(struct span payload, const char **what)
{
    struct fields fields;
    struct network network;
    *what = "gate";
    if (!parse(payload, &fields, &network))
        return EPROTO;
    if (open_now)
        return is_machine(fields.value[TAG_MACHINE_ID], passed_id) ? 0 : EALREADY;
    if (!environment_keep(&fields))
        return E2BIG;
    if (own_machine && !set_machine(&fields, &network, what))
        return errno;
    memcpy(passed_id, fields.value[TAG_MACHINE_ID].data, sizeof passed_id);
    open_now = true;
    return 0;
}
