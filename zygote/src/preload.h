#ifndef PRELOAD_H
#define PRELOAD_H

/* A function of the C library or of QEMU that is called here in place of the original. */
#define EXPORT __attribute__((visibility("default")))

#endif
