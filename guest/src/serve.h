/* The loop. */
#ifndef SERVE_H
#define SERVE_H

/* Prepares what serving needs, once: signals, tables, standard descriptors. */
void serve_prepare(void);

/* Serves for ever the link that was opened. */
_Noreturn void serve(void);

#endif
