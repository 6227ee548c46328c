"""Self-diagnosis: what is looked at (one file each), which findings come of it, and the report."""
