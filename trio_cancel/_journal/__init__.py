"""The journal: holds and intents that are durable before they have an effect."""
