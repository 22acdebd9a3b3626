"""The Jupyter messaging protocol towards kernels in guests, whose words are hostile input."""
