/* Fuzz target: frame heads and the fields of every operation. The first byte chooses what the rest is read as. */
#include "fuzz.h"

#include "fields.h"
#include "frame.h"
#include "gate.h"
#include "operation.h"

#define AS_FRAME 0
#define AS_GATE OP_LIMIT

static void read_as_frame(struct span input)
{
    struct frame frame;
    size_t hello = frame_find_hello(input);
    demand(hello <= input.size);
    if (frame_parse(input, &frame) == FRAME_READY)
        demand(frame.whole <= input.size && frame.payload.size + FRAME_HEAD == frame.whole);
}

/* Whatever is accepted can be walked to its end, and every value lies inside the payload. */
static void walk(struct span payload)
{
    struct span rest = payload;
    struct field field;
    while (fields_next(&rest, &field))
        demand(field.value.data >= payload.data && field.value.data + field.value.size <= payload.data + payload.size);
    demand(rest.size == 0);
}

static void read_as_operation(uint8_t operation, struct span payload)
{
    struct fields fields;
    const struct operation_kind *kind = operation_kind(operation);
    if (kind != NULL && fields_parse(payload, kind->rules, kind->count, &fields) && operation_fits(operation, &fields))
        walk(payload);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *what;
    if (size == 0)
        return 0;
    struct span rest = {data + 1, size - 1};
    uint8_t choice = data[0] % (OP_LIMIT + 1);
    if (choice == AS_FRAME)
        read_as_frame(rest);
    else if (choice == AS_GATE && gate_pass(rest, &what) == 0)
        gate_close();
    else
        read_as_operation(choice, rest);
    return 0;
}
