"""``pytest --seed N`` replays one seed of the simulation, and runs nothing else."""

from __future__ import annotations

import signal

import pytest
from hypothesis import HealthCheck, settings

from tests.tools.postgres import database, postgres  # noqa: F401 - fixtures

# How fast a machine is, is not what is tested.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


# Run in the background of a script, or under nohup, the tests and the processes that they start would inherit ignored
# signals, which stay ignored: the tests of signals would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, metavar="N", help="replay this seed of the simulation, and run nothing else")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--seed") is None:
        return
    chosen = [item for item in items if item.name == "test_one_seed"]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen
