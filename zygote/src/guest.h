#ifndef GUEST_H
#define GUEST_H

#include <stdbool.h>
#include <stddef.h>

/* The functions of QEMU that are called here, by the names under which it exports them. */

/* False when it does not export all of them. */
bool guest_find(void);

/* QEMU's big lock, under which the guest stops and goes on. */
void guest_lock(void);
void guest_unlock(void);

/* Whether this thread has it. */
bool guest_is_locked(void);

bool guest_runs(void);
void guest_stop(void);
void guest_continue(void);

/* Free and close now what QEMU would later, and have its RCU thread be made again in children. */
void guest_settle(void);

/* Put an empty disk layer on top of another. False when QEMU refuses; its log has the reason. */
bool guest_add_layer(const char *below, const char *top);

/* Write the state of all devices to a file, or become what is there; the guest stands still. Translated code stays. */
bool guest_save_devices(const char *file);
bool guest_load_devices(const char *file);

/* This part of the guest's memory has been written behind QEMU's back: code that was translated from it is void. */
void guest_forget_code(char *start, size_t size);

#endif
