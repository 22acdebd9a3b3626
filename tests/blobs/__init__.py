"""The seam to blob stores."""
