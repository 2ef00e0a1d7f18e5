"""What a lookup of a user's own returns is checked before it decides over an order."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import attrs
import pytest

from trio_cancel import CancelRequest, LookupFailed
from trio_cancel._values.order_state import checked
from trio_cancel.lookup import OrderState

BY_ID = CancelRequest("7155")
STATE = OrderState(status="open", seen_at=1.0, id="7155", external_id="mm-1")


@pytest.mark.parametrize("request_", [BY_ID, CancelRequest(external_id="mm-1")])
def test_a_state_of_the_order_is_taken(request_: CancelRequest) -> None:
    state = attrs.evolve(STATE, create_date=datetime.now(UTC), update_date=datetime.now(UTC))
    assert checked(state, request_) is state


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ("open", "returned str, not an OrderState"),
        ({"id": ""}, "returned a state that cannot be used: id must not be empty"),
        ({"id": 7}, "returned a state that cannot be used: id must be a string, not int"),
        ({"external_id": 7}, "returned a state that cannot be used: external_id is not a string"),
        ({"create_date": 7}, "returned a state that cannot be used: create_date is not a date with a time zone"),
        (
            {"update_date": datetime(2026, 1, 1)},
            "returned a state that cannot be used: update_date is not a date with a time zone",
        ),
        ({"id": "another"}, "answered for another order, or did not say for which"),
        ({"id": None, "external_id": None}, "answered for another order, or did not say for which"),
    ],
)
def test_what_cannot_be_used_is_told(state: Any, why: str) -> None:
    with pytest.raises(LookupFailed) as caught:
        checked(attrs.evolve(STATE, **state) if isinstance(state, dict) else state, BY_ID)
    assert str(caught.value) == f"The lookup of {BY_ID} {why}."
