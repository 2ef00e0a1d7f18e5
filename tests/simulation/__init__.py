"""The real client and the real sandbox exchange in one process, in a world where one seed is one run.

``python -m tests.simulation --help`` runs it by hand; ``pytest --seed N`` replays one seed. See README.md beside this.
"""
