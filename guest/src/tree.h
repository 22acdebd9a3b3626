/* Walks a directory tree without following symbolic links. */
#ifndef TREE_H
#define TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

#define TREE_DEPTH_MAX 512

struct visit {
    int directory;    /* where the entry stands, */
    const char *name; /* by that name */
    const char *path; /* relative to the root of the walk, which itself is "" */
    size_t path_size;
    int depth; /* 0: the root */
    const struct stat *status;
};

struct walk {
    /* Each entry, a directory before what is in it. 0 to go on, else an errno that ends the walk. */
    int (*enter)(const struct visit *visit);
    /* A directory after what is in it; may be NULL. */
    int (*leave)(const struct visit *visit);
    int depth;      /* how deep to go: 1 visits the root and what is in it */
    bool forgiving; /* what cannot be read or vanishes is passed over */
};

/* Returns 0 or the errno that ended it; ELOOP when the tree is deeper than TREE_DEPTH_MAX. */
int tree_walk(int directory, const char *name, const struct walk *walk);

#endif
