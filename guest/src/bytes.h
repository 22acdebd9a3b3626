/* Bytes with a length, and little-endian numbers in them. */
#ifndef BYTES_H
#define BYTES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct span {
    const uint8_t *data;
    size_t size;
};

static inline uint16_t load16(const uint8_t *at)
{
    return (uint16_t)(at[0] | at[1] << 8);
}

static inline uint32_t load32(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static inline uint64_t load64(const uint8_t *at)
{
    return (uint64_t)load32(at) | (uint64_t)load32(at + 4) << 32;
}

static inline void store32(uint8_t *at, uint32_t number)
{
    for (int byte = 0; byte < 4; byte++)
        at[byte] = (uint8_t)(number >> 8 * byte);
}

static inline void store64(uint8_t *at, uint64_t number)
{
    store32(at, (uint32_t)number);
    store32(at + 4, (uint32_t)(number >> 32));
}

static inline size_t smaller(size_t one, size_t other)
{
    return one < other ? one : other;
}

#endif
