"""Sessions that wait for less than a user's do."""

from __future__ import annotations

from functools import partial

import pytest

from trio_cancel import _client
from trio_cancel._cli import _venue
from trio_cancel._trio.environment import Environment
from trio_cancel._values.timings import Timings


def wait_for(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
    """Have the sessions that are opened from now on, also by the command line, wait so long; see ``Timings``."""
    made = partial(Environment, timings=Timings(**seconds))
    for module in (_client, _venue):
        monkeypatch.setattr(module, "Environment", made)
