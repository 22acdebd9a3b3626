/* The table of operations: which fields each takes, and who does it. */
#ifndef OPERATION_H
#define OPERATION_H

#include "fields.h"

enum content { CONTENT_NONE, CONTENT_OUT, CONTENT_IN };

/* A worker's job: runs in a forked child as the asked user; `content` is its end of the content pipe, or -1. */
typedef void job(const struct fields *fields, int content);

struct operation_kind {
    const struct rule *rules;
    size_t count;
    job *run; /* NULL: the agent itself serves it */
    enum content content;
    bool finishes; /* a half-done change is worse than a done one: runs on when nobody listens any more */
};

/* NULL for a number that is no operation. */
const struct operation_kind *operation_kind(uint8_t operation);

/* What the rules of single fields cannot say. */
bool operation_fits(uint8_t operation, const struct fields *fields);

#endif
