"""What the library's exceptions and observers say, and that neither can hurt a cancel."""

from __future__ import annotations

import logging

import attrs
import pytest

from trio_cancel import ConfigurationError, VenueUnavailable
from trio_cancel._values.boundary import describe, ends_program
from trio_cancel._values.errors import Interrupted
from trio_cancel._values.observer import Counters, Notifier, Observer, SafeLogger
from trio_cancel._values.open_report import OpenFilter


def test_an_unavailable_venue_says_its_words_if_it_has_any() -> None:
    assert str(VenueUnavailable(503)) == "The venue answered 503; it may have applied the cancel."
    assert str(VenueUnavailable(503, 1, "Maintenance.")) == (
        "The venue answered 503: Maintenance.; it may have applied the cancel."
    )
    assert (VenueUnavailable(503).message, VenueUnavailable(503).error_code) == ("", None)


def test_an_interruption_names_its_signal() -> None:
    assert str(Interrupted(15)) == "interrupted by signal 15"
    assert Interrupted(15).signum == 15


class Mute(Exception):
    """Cannot even be printed."""

    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("x"), "ValueError: x"),
        (ValueError(), "ValueError"),
        (Mute(), "Mute"),
        (ConfigurationError("ours"), "ours"),
        (OSError(2, "No such file"), "No such file"),
        (OSError("plain"), "plain"),
        (OSError("[Errno 5] "), "[Errno 5] "),
    ],
)
def test_an_exception_in_a_few_words(error: Exception, words: str) -> None:
    assert describe(error) == words


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_is_found_among_causes_and_in_groups(end: type[BaseException]) -> None:
    error = end()
    caused = ValueError()
    caused.__cause__ = BaseExceptionGroup("", [OSError(), error])
    assert ends_program(error) is error
    assert ends_program(caused) is error
    assert ends_program(ExceptionGroup("", [OSError()])) is None
    assert ends_program(ValueError()) is None
    assert ends_program(None) is None
    circle, other = ValueError(), ValueError()
    circle.__cause__, other.__cause__ = other, circle
    assert ends_program(circle) is None


class Raising(Observer):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def paced(self, rate: float) -> None:
        raise self.error


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_an_observer_ends_the_program_only_if_it_means_to(
    end: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    error, handed = end(), list[BaseException]()
    Notifier(Raising(error), handed.append)("paced", 1.0)
    assert handed == [error]
    with pytest.raises(end):
        Notifier(Raising(error))("paced", 1.0)
    assert not caplog.records
    Notifier(Raising(ValueError("x")), handed.append)("paced", 1.0)
    (record,) = caplog.records
    assert record.getMessage() == "the observer failed in paced; the cancel goes on"
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert handed == [error]


class Broken(logging.Handler):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def handle(self, record: logging.LogRecord) -> bool:
        raise self.error


def safe(error: BaseException) -> SafeLogger:
    logger = logging.Logger("of this test", logging.DEBUG)
    logger.addHandler(Broken(error))
    return SafeLogger(logger)


def test_a_handler_that_fails_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    log = safe(ValueError("full"))
    for call in (log.debug, log.info, log.warning, log.error, log.exception):
        call("a line %s", 1)
    assert capsys.readouterr().err == (
        "trio_cancel: a logging handler or filter failed (ValueError: full); its lines are lost, and cancels go on.\n"
    )


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_a_handler_may_end_the_program(end: type[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(end):
        safe(end()).info("a line")
    assert capsys.readouterr().err == ""


def test_each_line_has_its_level_and_the_place_that_logged_it(caplog: pytest.LogCaptureFixture) -> None:
    log = SafeLogger(logging.getLogger("trio_cancel.of_this_test"))
    caplog.set_level(logging.DEBUG)
    for call in (log.debug, log.info, log.warning, log.error):
        call("a line %s", 1)
    try:
        raise ValueError
    except ValueError:
        log.exception("a line %s", 2)
    log.log(logging.CRITICAL, "a line %s", 3)
    assert [record.levelno for record in caplog.records] == [10, 20, 30, 40, 40, 50]
    assert [record.getMessage() for record in caplog.records] == [*["a line 1"] * 4, "a line 2", "a line 3"]
    assert {record.funcName for record in caplog.records} == {
        "test_each_line_has_its_level_and_the_place_that_logged_it"
    }
    assert [bool(record.exc_info) for record in caplog.records] == [False] * 4 + [True, False]


def test_counters_begin_at_nothing_and_are_read_as_they_are() -> None:
    counters = Counters()
    first = counters.snapshot(pending=0, rate=None, window=0)
    names = [field.name for field in attrs.fields(Counters)]
    assert all(getattr(first, name) == 0 for name in names)
    for number, name in enumerate(names, 1):
        setattr(counters, name, number)
    second = counters.snapshot(pending=50, rate=2.5, window=60)
    assert [getattr(second, name) for name in names] == list(range(1, len(names) + 1))
    assert (second.pending, second.rate, second.window) == (50, 2.5, 60)
    assert first.queued == 0


@pytest.mark.parametrize(
    ("pair", "side", "everything", "text"),
    [
        (None, None, 1, "everything must be True or False, not 1."),
        (" ", None, False, "pair must be the name of a market such as 'BTC_BRL', not ' '."),
        (None, "BUY", False, "side must be 'buy' or 'sell', not 'BUY'."),
        (
            "BTC_BRL",
            None,
            True,
            "everything=True means all markets and both sides: give it without pair and side.",
        ),
        (None, None, False, "Say which open orders to cancel: give pair, side or both, or everything=True."),
    ],
)
def test_which_open_orders_are_meant_must_be_clear(pair: object, side: object, everything: object, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        OpenFilter.of(pair, side, everything)
    assert str(caught.value) == text
