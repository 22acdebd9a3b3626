/* The network device of a machine, eth0. */
#ifndef NETWORK_H
#define NETWORK_H

#include <netinet/in.h>
#include <stdbool.h>

#include "fields.h"

struct network {
    bool told;                /* an address was given: else the device is left alone */
    struct in_addr address;
    struct in_addr netmask;
    struct in_addr gateway;   /* 0.0.0.0: none */
    struct in_addr dns;
    bool has_mac;
    uint8_t mac[6];
};

/* Reads the NET fields of a GATE. False when one is no address, or there are others without NET_ADDRESS. */
bool network_parse(const struct fields *fields, struct network *network);

/* Sets the device up as told, with what is right already left alone. False with errno. */
bool network_set(const struct network *network);

/* Brings up the loopback device. */
bool network_loopback(void);

#endif
