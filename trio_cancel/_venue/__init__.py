"""What the venue says and what it means: JSON, signatures, verdicts. Nothing here waits."""
