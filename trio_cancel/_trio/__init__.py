"""What trio does not provide and this library needs: wakeups, signals, the environment."""
