#include "fields.h"

#include <stdio.h>

#define FIELD_HEAD 5u
#define MESSAGE_MAX 500

bool fields_next(struct span *rest, struct field *field)
{
    if (rest->size < FIELD_HEAD)
        return false;
    uint32_t size = load32(rest->data + 1);
    if (size > rest->size - FIELD_HEAD)
        return false;
    field->tag = rest->data[0];
    field->value = (struct span){rest->data + FIELD_HEAD, size};
    rest->data += FIELD_HEAD + size;
    rest->size -= FIELD_HEAD + size;
    return true;
}

/* How many continuation bytes follow a UTF-8 lead byte, or -1 for a byte that leads nothing. */
static int utf8_tail(uint8_t lead)
{
    if (lead < 0x80)
        return 0;
    if (lead >= 0xc2 && lead <= 0xdf)
        return 1;
    if (lead >= 0xe0 && lead <= 0xef)
        return 2;
    return lead >= 0xf0 && lead <= 0xf4 ? 3 : -1;
}

/* The second byte decides about overlong forms, surrogates and what lies beyond U+10FFFF. */
static bool utf8_second_fits(uint8_t lead, uint8_t second)
{
    uint8_t least = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    uint8_t most = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    return second >= least && second <= most;
}

static bool is_utf8(struct span text)
{
    for (size_t at = 0; at < text.size;) {
        int tail = utf8_tail(text.data[at]);
        if (tail < 0 || (size_t)tail >= text.size - at)
            return false;
        if (tail > 0 && !utf8_second_fits(text.data[at], text.data[at + 1]))
            return false;
        for (int byte = 2; byte <= tail; byte++)
            if ((text.data[at + (size_t)byte] & 0xc0) != 0x80)
                return false;
        at += (size_t)tail + 1;
    }
    return true;
}

static bool has_nul(struct span text)
{
    return text.size > 0 && memchr(text.data, 0, text.size) != NULL;
}

static bool shape_fits(const struct rule *rule, struct span value)
{
    if (rule->shape == NUMBER)
        return value.size == 8;
    if (rule->shape == FLAG)
        return value.size == 8 && load64(value.data) <= 1;
    if (value.size < rule->min || value.size > rule->max)
        return false;
    if (rule->shape == BLOB)
        return true;
    return !has_nul(value) && (rule->shape == STRING || is_utf8(value));
}

static const struct rule *rule_of(uint8_t tag, const struct rule *rules, size_t count)
{
    for (size_t at = 0; at < count; at++)
        if (rules[at].tag == tag)
            return &rules[at];
    return NULL;
}

bool fields_parse(struct span payload, const struct rule *rules, size_t count, struct fields *fields)
{
    memset(fields, 0, sizeof *fields);
    fields->payload = payload;
    struct span rest = payload;
    struct field field;
    while (fields_next(&rest, &field)) {
        const struct rule *rule = rule_of(field.tag, rules, count);
        if (rule == NULL || !shape_fits(rule, field.value))
            return false;
        if (fields->value[rule->tag].data == NULL)
            fields->value[rule->tag] = field.value;
        else if (!rule->repeated)
            return false;
    }
    for (size_t at = 0; at < count; at++)
        if (rules[at].required && !fields_has(fields, rules[at].tag))
            return false;
    return rest.size == 0;
}

bool fields_has(const struct fields *fields, enum tag tag)
{
    return fields->value[tag].data != NULL;
}

uint64_t fields_number(const struct fields *fields, enum tag tag, uint64_t otherwise)
{
    return fields_has(fields, tag) ? load64(fields->value[tag].data) : otherwise;
}

bool fields_flag(const struct fields *fields, enum tag tag)
{
    return fields_number(fields, tag, 0) == 1;
}

static void end_string(struct span value)
{
    if (value.data != NULL)
        *(uint8_t *)(uintptr_t)(value.data + value.size) = '\0';
}

void fields_end_strings(const struct fields *fields)
{
    struct span rest = fields->payload;
    struct field field;
    struct span last = {NULL, 0};
    while (fields_next(&rest, &field)) {
        end_string(last);
        last = field.value;
    }
    end_string(last);
}

char *fields_string(const struct fields *fields, enum tag tag)
{
    return (char *)(uintptr_t)fields->value[tag].data;
}

void put_bytes(struct writer *writer, const void *data, size_t size)
{
    if (writer->full || size > writer->room - writer->size) {
        writer->full = true;
        return;
    }
    if (size > 0)
        memcpy(writer->data + writer->size, data, size);
    writer->size += size;
}

void put_byte(struct writer *writer, uint8_t byte)
{
    put_bytes(writer, &byte, 1);
}

static void put_head(struct writer *writer, enum tag tag, size_t size)
{
    uint8_t head[FIELD_HEAD] = {(uint8_t)tag};
    store32(head + 1, (uint32_t)size);
    put_bytes(writer, head, sizeof head);
}

void put_field(struct writer *writer, enum tag tag, const void *value, size_t size)
{
    if (FIELD_HEAD + size > writer->room - writer->size)
        writer->full = true;
    put_head(writer, tag, size);
    put_bytes(writer, value, size);
}

void put_number(struct writer *writer, enum tag tag, uint64_t number)
{
    uint8_t value[8];
    store64(value, number);
    put_field(writer, tag, value, sizeof value);
}

void put_text(struct writer *writer, enum tag tag, const char *text)
{
    put_field(writer, tag, text, strlen(text));
}

static void make_utf8(char *text)
{
    if (is_utf8((struct span){(const uint8_t *)text, strlen(text)}))
        return;
    for (; *text != '\0'; text++)
        if ((uint8_t)*text >= 0x80)
            *text = '?';
}

void put_readable(struct writer *writer, enum tag tag, char *text)
{
    make_utf8(text);
    put_text(writer, tag, text);
}

void put_outcome(struct writer *writer, int error, const char *what)
{
    char text[MESSAGE_MAX + 1];
    put_number(writer, TAG_ERRNO, (uint64_t)error);
    if (error == 0)
        return;
    snprintf(text, sizeof text, "%s: %s", what, strerror(error));
    put_readable(writer, TAG_MESSAGE, text);
}

size_t put_open(struct writer *writer, enum tag tag)
{
    put_head(writer, tag, 0);
    return writer->size;
}

void put_close(struct writer *writer, size_t opened)
{
    if (!writer->full)
        store32(writer->data + opened - 4, (uint32_t)(writer->size - opened));
}
