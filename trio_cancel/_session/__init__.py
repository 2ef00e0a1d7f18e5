"""Connections over time, and what is written on them."""
