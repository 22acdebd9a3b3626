/* The jobs of the workers, one an operation: each answers with OPENED where its operation has one, ITEMS, and DONE. */
#ifndef JOBS_H
#define JOBS_H

#include "operation.h"

job job_read;
job job_write;
job job_list;
job job_stat;
job job_mkdir;
job job_move;
job job_remove;
job job_chmod;
job job_watch;
job job_metrics;
job job_ports;
job job_mount;
job job_unmount;

#endif
