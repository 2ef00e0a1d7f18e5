"""Cancel orders at Ripio Trade, with structured concurrency."""
