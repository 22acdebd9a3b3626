"""Where bytes are kept for long: a directory, or an S3 bucket."""
