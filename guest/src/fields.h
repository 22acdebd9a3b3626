/* Fields: `tag:u8 length:u32le value[length]`, read strictly against a table and written in order. */
#ifndef FIELDS_H
#define FIELDS_H

#include <stdbool.h>

#include "bytes.h"
#include "protocol.h"

enum shape {
    NUMBER, /* 8 bytes, little-endian */
    FLAG,   /* a NUMBER that is 0 or 1 */
    TEXT,   /* UTF-8 without NUL */
    STRING, /* any bytes without NUL */
    BLOB    /* any bytes */
};

/* What one tag may be within a frame. `min` and `max` bound the size of a TEXT, STRING or BLOB, in bytes. */
struct rule {
    uint8_t tag;
    uint8_t shape;
    bool required;
    bool repeated;
    uint32_t min;
    uint32_t max;
};

/* The fields of one payload. Of a repeated tag `value` holds the first; fields_next() walks them all. */
struct fields {
    struct span payload;
    struct span value[TAG_LIMIT];
};

struct field {
    uint8_t tag;
    struct span value;
};

/* Takes the next field off `rest`. False at the end, and at bytes that are no whole field: `rest` is not empty then. */
bool fields_next(struct span *rest, struct field *field);

/* True when `payload` is a sequence of fields that the table allows, with none missing, doubled or misshapen. */
bool fields_parse(struct span payload, const struct rule *rules, size_t count, struct fields *fields);

bool fields_has(const struct fields *fields, enum tag tag);
uint64_t fields_number(const struct fields *fields, enum tag tag, uint64_t otherwise);
bool fields_flag(const struct fields *fields, enum tag tag);

/* Makes every value a C string by a NUL over the byte behind it, which was the head of the next field or, behind the
 * last, no part of the payload. The payload can be walked no more. For a child. */
void fields_end_strings(const struct fields *fields);

/* The value as a C string, once they are ended; NULL when the field is absent. */
char *fields_string(const struct fields *fields, enum tag tag);

/* Writes into a fixed buffer. What does not fit is left out whole and leaves `full` set. */
struct writer {
    uint8_t *data;
    size_t size;
    size_t room;
    bool full;
};

void put_bytes(struct writer *writer, const void *data, size_t size);
void put_byte(struct writer *writer, uint8_t byte);
void put_field(struct writer *writer, enum tag tag, const void *value, size_t size);
void put_number(struct writer *writer, enum tag tag, uint64_t number);
void put_text(struct writer *writer, enum tag tag, const char *text);

/* A text of somebody else's, such as a name of a file: what is no UTF-8 in it becomes "?", also in `text`. */
void put_readable(struct writer *writer, enum tag tag, char *text);

/* ERRNO and, for an error, MESSAGE: "<what>: <strerror>". What `what` holds of a path may be no UTF-8: told as "?". */
void put_outcome(struct writer *writer, int error, const char *what);

/* Opens a field whose value is written next; put_close() fills in its length. */
size_t put_open(struct writer *writer, enum tag tag);
void put_close(struct writer *writer, size_t opened);

#endif
