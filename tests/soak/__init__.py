"""Half an hour over real sockets and TLS, with faults: does anything grow, leak, hang or lie? Run by hand.

``python -m tests.soak --minutes 30 --seed 1`` from the root of the repository; see README.md beside this.
"""
