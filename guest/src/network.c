#include "network.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "plain.h"

#define DEVICE "eth0"
#define RESOLVER "/etc/resolv.conf"

static bool parse_address(struct span text, struct in_addr *address)
{
    char copy[16];
    if (text.size >= sizeof copy)
        return false;
    memcpy(copy, text.data, text.size);
    copy[text.size] = '\0';
    return inet_pton(AF_INET, copy, address) == 1;
}

/* `10.0.2.15/24` */
static bool parse_prefixed(struct span text, struct network *network)
{
    const uint8_t *slash = memchr(text.data, '/', text.size);
    if (slash == NULL)
        return false;
    struct span digits = {slash + 1, text.size - (size_t)(slash + 1 - text.data)};
    uint32_t bits = 0;
    if (digits.size < 1 || digits.size > 2)
        return false;
    for (size_t at = 0; at < digits.size; at++) {
        if (digits.data[at] < '0' || digits.data[at] > '9')
            return false;
        bits = bits * 10 + (uint32_t)(digits.data[at] - '0');
    }
    if (bits < 1 || bits > 32)
        return false;
    network->netmask.s_addr = htonl(UINT32_MAX << (32 - bits));
    return parse_address((struct span){text.data, (size_t)(slash - text.data)}, &network->address);
}

static int hex_digit(uint8_t digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/* `52:54:00:12:34:56`, lower case */
static bool parse_mac(struct span text, uint8_t mac[6])
{
    for (size_t byte = 0; byte < 6; byte++) {
        const uint8_t *at = text.data + byte * 3;
        if (hex_digit(at[0]) < 0 || hex_digit(at[1]) < 0 || (byte < 5 && at[2] != ':'))
            return false;
        mac[byte] = (uint8_t)(hex_digit(at[0]) << 4 | hex_digit(at[1]));
    }
    return true;
}

bool network_parse(const struct fields *fields, struct network *network)
{
    *network = (struct network){.told = fields_has(fields, TAG_NET_ADDRESS)};
    network->has_mac = fields_has(fields, TAG_NET_MAC);
    bool gateway = fields_has(fields, TAG_NET_GATEWAY);
    bool dns = fields_has(fields, TAG_NET_DNS);
    if (!network->told)
        return !gateway && !dns && !network->has_mac;
    return parse_prefixed(fields->value[TAG_NET_ADDRESS], network) &&
           (!gateway || parse_address(fields->value[TAG_NET_GATEWAY], &network->gateway)) &&
           (!dns || parse_address(fields->value[TAG_NET_DNS], &network->dns)) &&
           (!network->has_mac || parse_mac(fields->value[TAG_NET_MAC], network->mac));
}

static struct ifreq request_for(const char *device)
{
    struct ifreq request;
    memset(&request, 0, sizeof request);
    memcpy(request.ifr_name, device, strlen(device));
    return request;
}

static void put_address(struct sockaddr *into, struct in_addr address)
{
    struct sockaddr_in full = {.sin_family = AF_INET, .sin_addr = address};
    memcpy(into, &full, sizeof full);
}

static bool set_up(int control, const char *device, bool up)
{
    struct ifreq request = request_for(device);
    if (ioctl(control, SIOCGIFFLAGS, &request) != 0)
        return false;
    if (((request.ifr_flags & IFF_UP) != 0) == up)
        return true;
    request.ifr_flags = (short)(request.ifr_flags ^ IFF_UP);
    return ioctl(control, SIOCSIFFLAGS, &request) == 0;
}

/* Some devices change their address only while they are down. */
static bool set_mac(int control, const uint8_t mac[6])
{
    struct ifreq request = request_for(DEVICE);
    if (ioctl(control, SIOCGIFHWADDR, &request) != 0)
        return false;
    if (memcmp(request.ifr_hwaddr.sa_data, mac, 6) == 0)
        return true;
    request.ifr_hwaddr.sa_family = ARPHRD_ETHER;
    memcpy(request.ifr_hwaddr.sa_data, mac, 6);
    if (ioctl(control, SIOCSIFHWADDR, &request) == 0)
        return true;
    return errno == EBUSY && set_up(control, DEVICE, false) && ioctl(control, SIOCSIFHWADDR, &request) == 0;
}

static bool has_address(int control, uint16_t get, struct in_addr address)
{
    struct ifreq request = request_for(DEVICE);
    struct sockaddr_in now;
    if (ioctl(control, get, &request) != 0)
        return false;
    memcpy(&now, &request.ifr_addr, sizeof now);
    return now.sin_addr.s_addr == address.s_addr;
}

static bool set_address(int control, uint16_t set, struct in_addr address)
{
    struct ifreq request = request_for(DEVICE);
    put_address(&request.ifr_addr, address);
    return ioctl(control, set, &request) == 0;
}

/* A default route, by its netmask of zeros. */
static bool change_route(int control, uint16_t change, struct in_addr gateway)
{
    char device[] = DEVICE;
    struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY, .rt_dev = device};
    put_address(&route.rt_dst, (struct in_addr){0});
    put_address(&route.rt_genmask, (struct in_addr){0});
    put_address(&route.rt_gateway, gateway);
    return ioctl(control, change, &route) == 0;
}

static bool set_device(int control, const struct network *network)
{
    if (network->has_mac && !set_mac(control, network->mac))
        return false;
    if (!has_address(control, SIOCGIFADDR, network->address) && !set_address(control, SIOCSIFADDR, network->address))
        return false;
    if (!has_address(control, SIOCGIFNETMASK, network->netmask) &&
        !set_address(control, SIOCSIFNETMASK, network->netmask))
        return false;
    return set_up(control, DEVICE, true);
}

static bool set_gateway(int control, struct in_addr gateway)
{
    if (gateway.s_addr == 0 || change_route(control, SIOCADDRT, gateway))
        return true;
    return errno == EEXIST;
}

static bool already_says(const char *text, size_t size)
{
    char now[64];
    int fd = open(RESOLVER, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t got = read(fd, now, sizeof now);
    close(fd);
    return got == (ssize_t)size && memcmp(now, text, size) == 0;
}

static bool set_resolver(struct in_addr dns)
{
    char address[INET_ADDRSTRLEN];
    char text[64];
    if (dns.s_addr == 0)
        return true;
    inet_ntop(AF_INET, &dns, address, sizeof address);
    size_t size = (size_t)snprintf(text, sizeof text, "nameserver %s\n", address);
    if (already_says(text, size))
        return true;
    int file = plain_open(RESOLVER, O_TRUNC, 0644);
    if (file < 0)
        return false;
    bool written = write(file, text, size) == (ssize_t)size;
    close(file);
    return written;
}

bool network_set(const struct network *network)
{
    if (!network->told)
        return true;
    int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (control < 0)
        return false;
    bool set = set_device(control, network) && set_gateway(control, network->gateway);
    int error = errno;
    close(control);
    errno = error;
    return set && set_resolver(network->dns);
}

bool network_loopback(void)
{
    int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (control < 0)
        return false;
    bool up = set_up(control, "lo", true);
    close(control);
    return up;
}
