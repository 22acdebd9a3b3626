"""Load and hostile guests against a server of their own, with a neighbour that must not notice."""
