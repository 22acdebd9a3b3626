#ifndef MEMORY_H
#define MEMORY_H

/* Does at once what whoever first asks for much memory would do, in each copy of this process anew. */
void memory_tidy(void);

/* Has this process's own memory in large pages: a fork copies what maps it, page by page. A copy that writes to a large
 * one gets a small one of its own, as ever.
 */
void memory_gather(void);

#endif
