/* Removing a whole tree, for REMOVE and for what MOVE leaves behind. */
#ifndef REMOVE_H
#define REMOVE_H

/* Returns 0 or an errno. A tree that is gone already is fine, its root excepted. */
int remove_tree(int directory, const char *name);

#endif
