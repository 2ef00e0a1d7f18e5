"""The standby guard: it takes over the journals of sessions that died with their machine, and cancels what they held."""
