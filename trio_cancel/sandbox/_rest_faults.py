"""How the sandbox's REST side can misbehave (values only).

No fault makes it lie about an order in a form that no client could detect; a lag is not a lie.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import attrs

from trio_cancel.sandbox._faults import pickled


class RestFault(StrEnum):
    """Everything that the REST side can do wrong."""

    ERROR_400 = "error_400"  # an error body, as the next ones
    ERROR_401 = "error_401"
    ERROR_403 = "error_403"
    ERROR_404 = "error_404"
    ERROR_429 = "error_429"  # with Retry-After
    ERROR_500 = "error_500"
    ERROR_503 = "error_503"
    HTML_502 = "html_502"  # a load balancer's page
    HTML_200 = "html_200"  # a page where JSON belongs
    SLOW = "slow"  # a valid answer, its body byte by byte
    STALLED = "stalled"  # no answer
    DROPPED = "dropped"  # the connection drops in place of the answer
    CUT = "cut"  # it drops in the middle of the body
    GARBAGE = "garbage"  # not HTTP
    MALFORMED_JSON = "malformed_json"
    WRONG_SCHEMA = "wrong_schema"
    NO_DATA = "no_data"  # 200 with data null
    OTHER_ORDER = "other_order"  # another order's id
    OTHER_STATUS = "other_status"  # a status that nobody knows
    OVERSIZE = "oversize"  # a body of 4 MiB


def _checked(chances: Mapping[RestFault, float]) -> Mapping[RestFault, float]:
    checked = {RestFault(fault): float(chance) for fault, chance in chances.items()}
    if any(not 0 <= chance <= 1 for chance in checked.values()) or sum(checked.values()) > 1 + 1e-9:
        raise ValueError("The chances of all faults must be 0 or more, and at most 1 together.")
    return MappingProxyType(checked)


@attrs.frozen
class RestFaults:
    """How likely each fault of a REST answer is, and its details.

    Args:
        chances: the probability of each; faults that are not named never fire by chance.
        trickle: seconds between two bytes of a SLOW body.
        hold: seconds for which a STALLED connection is kept before it is dropped.
        retry_after: seconds in the Retry-After header of ERROR_429; None leaves the header out.

    Raises:
        ValueError: if a chance is not a probability, or they add up to more than 1.
    """

    chances: Mapping[RestFault, float] = attrs.field(factory=dict, converter=_checked)
    trickle: float = 0.02
    hold: float = 120.0
    retry_after: float | None = 1.0

    def __reduce__(self) -> tuple[Any, ...]:
        return pickled(self)

    @classmethod
    def each(cls, chance: float, *, only: Iterable[RestFault] = RestFault, but: Iterable[RestFault] = ()) -> RestFaults:
        """Return faults that each have the same chance.

        Args:
            chance: of each fault; there are about 20, so use at most about 0.05.
            only: the faults to include; all if left out.
            but: the faults to leave out.
        """
        left_out = frozenset(but)
        return cls({fault: chance for fault in only if fault not in left_out})
