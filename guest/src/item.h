/* What LIST and STAT tell of a file. */
#ifndef ITEM_H
#define ITEM_H

#include <sys/stat.h>

#include "fields.h"

/* The letter that find(1) prints for the type. */
char item_kind(mode_t mode);

/* The fields SIZE MODE MTIME_NS KIND. */
void item_put_status(struct writer *writer, const struct stat *status);

/* A whole ITEM of the entry `entry` of `directory`, named `name` to the host. */
void item_put(struct writer *writer, const char *name, size_t name_size, const struct stat *status, int directory,
              const char *entry);

#endif
