"""The standby guard: it takes over the journals of dead sessions, and cancels what they held."""
