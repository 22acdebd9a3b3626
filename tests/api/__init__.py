"""The control plane over a real host without virtual machines."""
