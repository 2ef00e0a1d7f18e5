"""Processes that are killed with SIGKILL at a random moment of a bulk cancel or an order scope, and what they leave."""
