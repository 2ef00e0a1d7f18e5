"""A take-over goes to no server that is older than the one where its journal was seen."""

from __future__ import annotations

from typing import Any

import pytest

from trio_cancel import JournalError
from trio_cancel._journal import postgres
from trio_cancel._journal.address import server_of
from trio_cancel._journal.database import Settings, Unusable
from trio_cancel._journal.postgres import PostgresStore

NEWER = Settings(read_only=False, standby=False, safe=True, replicated=True, timeline=2, system="1", process=1)


def test_a_take_over_refuses_what_its_guard_knows_to_be_older(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def connect(server: object, seconds: float, **keywords: Any) -> None:
        asked.append(keywords)
        raise Unusable("the server was left behind by a promotion")

    monkeypatch.setattr(postgres, "connect", connect)
    server = server_of("postgresql://first,second/trading?journal=mm-1")
    assert server is not None
    with pytest.raises(JournalError, match="left behind by a promotion"):
        PostgresStore.take_over(server, 1, 1, 1, "prefix", 0, 3.0, known=NEWER)
    assert asked == [{"known": NEWER, "write": True}]
