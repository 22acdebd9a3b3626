#ifndef ROOT_H
#define ROOT_H

#include <stdbool.h>

#include "order.h"

/* In a mount namespace of our own: have a root that holds what the order names and nothing else, read only. The old one is
 * gone. False, with errno, when that cannot be; then this process is good for nothing.
 */
bool root_change(const struct order *order);

#endif
