"""What trio lacks for this library."""
