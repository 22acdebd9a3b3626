"""The dashboard, over a real control plane without virtual machines."""
