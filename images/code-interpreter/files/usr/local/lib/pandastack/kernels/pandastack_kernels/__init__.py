"""What the Python kernel has beside IPython."""
