#include "jobs.h"
void job_read(const struct fields *f, int c){(void)f;(void)c;}
void job_write(const struct fields *f, int c){(void)f;(void)c;}
void job_list(const struct fields *f, int c){(void)f;(void)c;}
void job_stat(const struct fields *f, int c){(void)f;(void)c;}
void job_mkdir(const struct fields *f, int c){(void)f;(void)c;}
void job_move(const struct fields *f, int c){(void)f;(void)c;}
void job_remove(const struct fields *f, int c){(void)f;(void)c;}
void job_chmod(const struct fields *f, int c){(void)f;(void)c;}
void job_watch(const struct fields *f, int c){(void)f;(void)c;}
void job_metrics(const struct fields *f, int c){(void)f;(void)c;}
