"""How the sandbox and its REST side can misbehave: the catalogues of faults and their chances (values only).

A fault of the sandbox fires at one of three points: when a connection asks for its upgrade, when a request is
processed, or when the client sends Close. At most one fires at each point, and at most one for each REST answer.

No fault makes the venue lie about an order in a form that no client could detect: its first answer in a valid form is
true. (Nobody can tell a venue that lies consistently from an honest one.) A lag of the REST side is not a lie.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Mapping
from enum import StrEnum
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

import attrs

_F = TypeVar("_F", bound=StrEnum)


class Point(StrEnum):
    """Where a fault can fire."""

    UPGRADE = "upgrade"
    REQUEST = "request"
    CLOSE = "close"


class Fault(StrEnum):
    """Everything that the sandbox can do wrong. "Applied" means that an order that can be canceled was canceled."""

    # While the connection is opened
    UPGRADE_401 = "upgrade_401"  # rejected, as are the next three
    UPGRADE_403 = "upgrade_403"
    UPGRADE_429 = "upgrade_429"  # with Retry-After
    UPGRADE_503 = "upgrade_503"  # with Retry-After
    UPGRADE_ENDLESS = "upgrade_endless"  # 503 with a body that never ends
    UPGRADE_SILENT = "upgrade_silent"  # never answered
    UPGRADE_GARBAGE = "upgrade_garbage"  # answered with something that is not HTTP
    UPGRADE_WRONG_ACCEPT = "upgrade_wrong_accept"  # 101 with another key's Sec-WebSocket-Accept
    UPGRADE_CUT = "upgrade_cut"  # closed in the middle of the response's head
    UPGRADE_GLUED = "upgrade_glued"  # frames in the same bytes as the 101

    # Before the request is applied; it never is
    DROP_BEFORE = "drop_before"  # the connection drops without a Close
    CLOSE_BEFORE = "close_before"  # Close 1012, service restart
    SILENT_BEFORE = "silent_before"  # no reply to this request
    STALL_BEFORE = "stall_before"  # from here on nothing is answered or applied, no pongs: half-open
    STOP_READING = "stop_reading"  # from here on nothing is read
    ERROR_500_BEFORE = "error_500_before"
    ERROR_503_BEFORE = "error_503_before"
    ERROR_408_BEFORE = "error_408_before"
    REFUSE_429 = "refuse_429"
    REFUSE_DAILY = "refuse_daily"
    REFUSE_40011 = "refuse_40011"
    REFUSE_UNKNOWN_CODE = "refuse_unknown_code"
    ACTS_LATE = "acts_late"  # no reply; applied after `acts_late`, if it still can be

    # After the request was applied
    DROP_AFTER = "drop_after"
    CLOSE_AFTER = "close_after"
    SILENT_AFTER = "silent_after"  # the reply is lost
    STALL_AFTER = "stall_after"  # from here on requests are applied, nothing is answered
    ERROR_500_AFTER = "error_500_after"
    ERROR_503_AFTER = "error_503_after"
    ERROR_408_AFTER = "error_408_after"
    DELAYED = "delayed"  # answered within `delay`: replies out of order
    LATE = "late"  # answered after `late`
    DUPLICATED = "duplicated"
    CONTRADICTED = "contradicted"  # a second reply says the opposite
    FRAGMENTED = "fragmented"  # a valid reply in fragments, a ping between them
    TRICKLED = "trickled"  # a valid reply, byte by byte
    STRAY_BEFORE_REPLY = "stray_before_reply"  # a reply with an unknown id, then the right one
    UNKNOWN_ID = "unknown_id"  # the reply has another request's id
    NULL_ID = "null_id"  # an error with id null in place of the reply
    MALFORMED_JSON = "malformed_json"
    WRONG_SCHEMA = "wrong_schema"  # the right id, the wrong types
    BINARY = "binary"  # the reply in a binary frame
    OTHER_ORDER = "other_order"  # 200 with another order's id
    OTHER_STATUS = "other_status"  # 200 with status open
    OK_WITH_ERROR = "ok_with_error"  # 200 with an error
    OK_WITHOUT_RESULT = "ok_without_result"
    SPARSE_RESULT = "sparse_result"  # a success with only the order's name and its status
    ODD_RESULT = "odd_result"  # a success in other spellings: text for numbers, dates without a zone, another case
    OVERSIZE = "oversize"  # a message of 2 MiB in place of the reply
    BAD_UTF8 = "bad_utf8"
    RESERVED_BIT = "reserved_bit"
    BAD_CLOSE = "bad_close"  # Close with an illegal code
    CUT = "cut"  # the reply ends in the middle of its frame, with the connection

    # While the connection is closed
    CLOSE_IGNORED = "close_ignored"  # no Close, no end of stream
    CLOSE_WITHOUT_END = "close_without_end"  # Close, and no end of stream
    CLOSE_PINGED = "close_pinged"  # pings before the Close

    @property
    def point(self) -> Point:
        """Where it can fire."""
        if self.startswith("upgrade_"):
            return Point.UPGRADE
        return Point.CLOSE if self in _AT_CLOSE else Point.REQUEST

    @property
    def applies(self) -> bool:
        """Whether the request that it hits is still applied."""
        before = self.endswith("_before") or self.startswith("refuse_") or self in (Fault.STOP_READING, Fault.ACTS_LATE)
        return self.point is Point.REQUEST and not before

    @property
    def needs_result(self) -> bool:
        """Whether it can hit only a request that succeeds."""
        return self in _NEEDS_RESULT


_AT_CLOSE = frozenset({Fault.CLOSE_IGNORED, Fault.CLOSE_WITHOUT_END, Fault.CLOSE_PINGED})
_NEEDS_RESULT = frozenset(
    {
        Fault.CONTRADICTED,
        Fault.OTHER_ORDER,
        Fault.OTHER_STATUS,
        Fault.OK_WITH_ERROR,
        Fault.OK_WITHOUT_RESULT,
        Fault.SPARSE_RESULT,
        Fault.ODD_RESULT,
    }
)


@attrs.frozen
class CustomReply:
    """What a script makes the sandbox say in place of the reply.

    Args:
        payload: a str is sent as a text message, bytes as a binary one.
        applies: whether the request is applied first.
    """

    payload: str | bytes
    applies: bool = True


def _are_chances(shares: Collection[float]) -> bool:
    """Return True if these are probabilities of faults of which at most one can fire."""
    return all(0 <= share <= 1 for share in shares) and sum(shares) <= 1 + 1e-9


def _checked_chances(chances: Mapping[Fault, float]) -> Mapping[Fault, float]:
    checked = {Fault(fault): float(chance) for fault, chance in chances.items()}
    for point in Point:
        share = [chance for fault, chance in checked.items() if fault.point is point]
        if not _are_chances(share):
            raise ValueError(
                f"The chances of all faults at the point {point} must be 0 or more, and at most 1 together."
            )
    return MappingProxyType(checked)


@attrs.frozen
class Faults:
    """How likely each fault is, and its details. At most one fires for a request, an upgrade or a Close.

    Args:
        chances: the probability of each fault at its point; faults that are not named never fire by chance.
        delay: seconds, (least, most), that a DELAYED reply takes.
        late: seconds, (least, most), that a LATE reply takes.
        trickle: seconds between two bytes of a TRICKLED reply.
        hold: seconds that a stalled, silent or never-closing connection is kept before it is dropped.
        retry_after: seconds in the Retry-After header of UPGRADE_429 and UPGRADE_503; None leaves the header out.
        acts_late: seconds, (least, most), after which a request that ACTS_LATE is applied.

    Raises:
        ValueError: if a chance is not a probability, or those at one point add up to more than 1.
    """

    chances: Mapping[Fault, float] = attrs.field(factory=dict, converter=_checked_chances)
    delay: tuple[float, float] = (0.01, 2.0)
    late: tuple[float, float] = (13.0, 40.0)
    trickle: float = 0.02
    hold: float = 120.0
    retry_after: float | None = 1.0
    acts_late: tuple[float, float] = (0.5, 15.0)

    def __reduce__(self) -> tuple[Any, ...]:
        return _pickled(self)

    @classmethod
    def each(cls, chance: float, *, only: Iterable[Fault] = Fault, but: Iterable[Fault] = ()) -> Faults:
        """Return faults that each have the same chance.

        Args:
            chance: of each fault; about 40 can hit a request, so use at most about 0.02.
            only: the faults to include; all if left out.
            but: the faults to leave out.
        """
        left_out = frozenset(but)
        return cls({fault: chance for fault in only if fault not in left_out})


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


def _checked_rest_chances(chances: Mapping[RestFault, float]) -> Mapping[RestFault, float]:
    checked = {RestFault(fault): float(chance) for fault, chance in chances.items()}
    if not _are_chances(checked.values()):
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

    chances: Mapping[RestFault, float] = attrs.field(factory=dict, converter=_checked_rest_chances)
    trickle: float = 0.02
    hold: float = 120.0
    retry_after: float | None = 1.0

    def __reduce__(self) -> tuple[Any, ...]:
        return _pickled(self)

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


def _pickled(faults: Any) -> tuple[Any, ...]:
    """Return how to make these faults again: their read-only mapping cannot be pickled."""
    make: Callable[..., Any] = type(faults)
    fields = {field.name: getattr(faults, field.name) for field in attrs.fields(type(faults))}
    return partial(make, **fields | {"chances": dict(faults.chances)}), ()


def draw(chances: Iterable[tuple[_F, float]], rng: random.Random) -> _F | None:
    """Pick at most one of these faults, each with its probability."""
    mark = rng.random()
    for fault, chance in chances:
        mark -= chance
        if mark < 0:
            return fault
    return None
