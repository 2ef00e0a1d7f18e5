"""``trio-cancel cancel`` in this process, against a sandbox over TLS: each status, each door, each order told."""

from __future__ import annotations

import io
import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from trio_cancel._cli import _output, _run, run, run_async
from trio_cancel.sandbox import CustomReply, Fault, Faults, Sandbox, SandboxOptions, open_sandbox

NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def trading_sandbox_options() -> SandboxOptions:
    return {"tls": True, "seed": 1}


@attrs.define
class Shell:
    """Runs command lines against the sandbox and reads what they print."""

    sandbox: Sandbox
    ca_file: Path
    capture: pytest.CaptureFixture[str]
    error: str = ""

    async def __call__(self, *words: str) -> tuple[int, list[dict[str, Any]]]:
        status = await run_async(["cancel", *words, "--url", self.sandbox.url, "--ca-file", str(self.ca_file)])
        printed = self.capture.readouterr()
        self.error = printed.err
        assert "Traceback" not in printed.err
        assert "sandbox-secret" not in printed.out + printed.err
        return status, [json.loads(line) for line in printed.out.splitlines()]


@pytest.fixture
async def shell(
    trading_sandbox: Sandbox,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Shell:
    monkeypatch.setenv("RIPIO_API_TOKEN", trading_sandbox.credentials.api_token)
    monkeypatch.setenv("RIPIO_API_SECRET", trading_sandbox.credentials.api_secret)
    trading_sandbox.write_ca(tmp_path / "ca.pem")
    return Shell(trading_sandbox, tmp_path / "ca.pem", capfd)


def kinds(records: Sequence[dict[str, Any]]) -> list[str]:
    return sorted(record["status"] for record in records)


def feed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


# Statuses


async def test_one_order(shell: Shell) -> None:
    order = shell.sandbox.book.create(amount="0.5", external_id="mine")
    shell.sandbox.book.fill(order.id, amount="0.12345678901234567891")
    status, [record] = await shell(order.id)
    assert status == 0
    assert record["off_book"] is True
    assert (record["id"], record["external_id"], record["status"]) == (order.id, "mine", "canceled")
    assert (record["executed_amount"], record["remaining_amount"]) == (
        "0.12345678901234567891",
        "0.37654321098765432109",
    )
    assert len(record["attempts"]) == 1
    assert shell.error == "trio-cancel: 1 order: 1 canceled\n"


async def test_canceled_and_closed_is_0(shell: Shell) -> None:
    first, second = shell.sandbox.book.create(), shell.sandbox.book.create(external_id="mine")
    shell.sandbox.book.fill(first.id)
    status, records = await shell(first.id, "--external-id", "mine")
    assert (status, kinds(records)) == (0, ["already_closed", "canceled"])
    assert not shell.sandbox.book.open_orders()
    assert second.id in {record["id"] for record in records}


async def test_not_found_is_1(shell: Shell) -> None:
    order = shell.sandbox.book.create()
    status, records = await shell(NOBODY, order.id)
    assert (status, kinds(records)) == (1, ["canceled", "not_found"])
    assert f"1 order may still be on the book:\n  not found  {NOBODY}" in shell.error


async def test_rejected_is_1(shell: Shell) -> None:
    first, second = shell.sandbox.book.create(), shell.sandbox.book.create()
    shell.sandbox.fault_on(first.id, Fault.REFUSE_DAILY)
    status, records = await shell(first.id, second.id)
    assert (status, kinds(records)) == (1, ["canceled", "rejected"])


async def test_unknown_is_3_before_1(shell: Shell) -> None:
    order = shell.sandbox.book.create()
    shell.sandbox.fault_on(order.id, Fault.REFUSE_UNKNOWN_CODE)
    status, records = await shell(order.id, NOBODY)
    assert (status, kinds(records)) == (3, ["not_found", "unknown"])
    unknown = next(record for record in records if record["status"] == "unknown")
    assert unknown["off_book"] is None
    assert unknown["cause"]


async def test_everything_refused_for_the_signature_is_2(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIPIO_API_SECRET", "wrong")
    order = shell.sandbox.book.create()
    status, records = await shell(order.id, NOBODY)
    assert (status, kinds(records)) == (2, ["rejected", "rejected"])
    assert "refused every signature" in shell.error
    assert shell.sandbox.book.open_orders()


async def test_one_refused_for_the_signature_is_1(shell: Shell) -> None:
    first, second = shell.sandbox.book.create(), shell.sandbox.book.create()
    shell.sandbox.fault_on(first.id, Fault.REFUSE_40011)
    status, _ = await shell(first.id, second.id)
    assert status == 1


async def test_no_connection_accounts_for_every_order(shell: Shell) -> None:
    shell.sandbox.fault_on_upgrade(Fault.UPGRADE_503)
    status, records = await shell(NOBODY, NOBODY, "--external-id", "mine")
    assert (status, kinds(records)) == (1, ["not_sent"] * 3)
    assert "refused the WebSocket upgrade with status 503" in shell.error
    assert "status 503" in records[0]["cause"]


async def test_an_upgrade_refused_for_the_credentials_is_2(shell: Shell) -> None:
    shell.sandbox.fault_on_upgrade(Fault.UPGRADE_401)
    status, records = await shell(NOBODY)
    assert (status, kinds(records)) == (2, ["not_sent"])
    assert "status 401" in shell.error


async def test_an_untrusted_certificate_is_named(shell: Shell) -> None:
    status = await run_async(["cancel", NOBODY, "--url", shell.sandbox.url])
    error = shell.capture.readouterr().err
    assert status == 1
    assert "is not trusted" in error
    assert "--ca-file" in error
    assert "ssl_context" not in error


# What is wrong before anything is sent


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "nothing to cancel"),
        ([""], "ID 1: id must not be empty"),
        (["a,b"], "ID 1"),
        ([NOBODY, "--external-id", ""], "--external-id 1: external_id must not be empty"),
        (["--from", "no-such-file"], "no-such-file cannot be read: No such file"),
        (["--from", "."], "cannot be read: Is a directory"),
        ([NOBODY, "--deadline", "0"], "--deadline needs"),
        ([NOBODY, "--deadline", "-1"], "--deadline"),
        ([NOBODY, "--deadline", "nan"], "--deadline needs"),
        ([NOBODY, "--deadline", "inf"], "--deadline needs"),
        ([NOBODY, "--deadline", "soon"], "--deadline"),
        ([NOBODY, "--from"], "--from needs a value"),
        ([NOBODY, "--external-id"], "--external-id needs a value"),
        ([NOBODY, "--no-such-option"], "--no-such-option"),
        ([NOBODY, "--url", "http://127.0.0.1"], "scheme"),
        ([NOBODY, "--url", "ws://example.org"], "plain ws://"),
        ([NOBODY, "--url", ""], "scheme"),
        ([NOBODY, "--ca-file", "no-such-file"], "CA file no-such-file cannot be read: No such file"),
        ([NOBODY, "--ca-file", "."], "CA file"),
        ([NOBODY, "--ca-file", __file__], "no certificate"),
        ([NOBODY, "--ca-file", ""], "--ca-file needs"),
    ],
)
async def test_wrong_usage_is_2_and_one_line(
    words: list[str], says: str, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRIO_CANCEL_URL", shell.sandbox.url)
    status = await run_async(["cancel", *words])
    printed = shell.capture.readouterr()
    assert status == 2
    assert not printed.out
    assert says in printed.err
    assert printed.err.splitlines()[-1].startswith("trio-cancel: ")
    assert len(printed.err.splitlines()) <= 2
    assert not shell.sandbox.log.connections


@pytest.mark.parametrize("missing", ["RIPIO_API_TOKEN", "RIPIO_API_SECRET"])
async def test_missing_credentials_are_named(missing: str, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(missing)
    status, records = await shell(NOBODY)
    assert (status, records) == (2, [])
    assert missing in shell.error
    assert "credentials=" not in shell.error


async def test_every_bad_line_is_named_before_anything_is_sent(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    order = shell.sandbox.book.create()
    feed(monkeypatch, f"{order.id}\nx y\n\n{order.id}\n\x07\n")
    status, records = await shell("--from", "-")
    assert (status, records) == (2, [])
    lines = shell.error.splitlines()
    assert lines[0].startswith("trio-cancel: line 2: ")
    assert lines[1].startswith("trio-cancel: line 5: ")
    assert "2 bad lines" in lines[2]
    assert not shell.sandbox.log.connections


async def test_skip_bad_goes_on_and_is_1_at_best(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    order = shell.sandbox.book.create()
    feed(monkeypatch, f"id,external_id\n{order.id},x\n,\n")
    status, records = await shell("--from", "-", "--skip-bad")
    assert (status, kinds(records)) == (1, ["canceled"])
    assert "line 3: it has no id and no external_id" in shell.error
    assert "1 bad line was skipped" in shell.error


@pytest.mark.parametrize("end", ['"', ""])
async def test_an_order_that_only_a_note_names_is_never_canceled(
    end: str, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, noted, first = (shell.sandbox.book.create().id for _ in range(3))
    feed(monkeypatch, f'id,note\n{first},\n{asked},"instead of\n{noted},\nplease{end}\n')
    status, records = await shell("--from", "-", "--skip-bad")
    assert noted in {order.id for order in shell.sandbox.book.open_orders()}
    if end:
        assert (status, {record["id"] for record in records}) == (0, {first, asked})
    else:
        assert (status, {record["id"] for record in records}) == (1, {first})
        assert "lines 3 to 5: a quotation mark is opened and not closed, so that nothing can be read" in shell.error
        assert "3 bad lines were skipped" in shell.error


async def test_what_is_skipped_is_told_counted_and_1(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    order, other = shell.sandbox.book.create(), shell.sandbox.book.create(external_id="# x")
    feed(monkeypatch, f"# a list\n\norder_id\n{order.id}\norder_id\n")
    status, records = await shell("--from", "-")
    assert (status, kinds(records)) == (1, ["canceled"])
    assert shell.error.splitlines() == [
        "trio-cancel: line 1: a comment; skipped",
        "trio-cancel: line 5: the header again; skipped",
        "trio-cancel: 1 order: 1 canceled",
        "trio-cancel: 2 other lines were skipped (comments and repeated headers)",
    ]
    feed(monkeypatch, f"# a list\n{other.id}\n")
    status, records = await shell("--from", "-", "--literal")
    assert (status, records) == (2, [])
    assert 'line 1: "# a list" is not one order id' in shell.error
    feed(monkeypatch, "clientOrderId\n# x\n")
    status, records = await shell("--from", "-")
    assert (status, kinds(records)) == (0, ["canceled"])
    assert not shell.sandbox.book.open_orders()


async def test_white_space_around_an_external_id_is_told_and_sent(shell: Shell) -> None:
    shell.sandbox.book.create(external_id=" mine")
    status, records = await shell("--external-id", " mine")
    assert (status, kinds(records)) == (0, ["canceled"])
    assert '--external-id 1: the external id " mine" has white space at its ends; it is sent as it is' in shell.error


@pytest.mark.parametrize("name", ["RIPIO_API_TOKEN", "RIPIO_API_SECRET"])
async def test_credentials_with_a_newline_are_named(name: str, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "hidden-value\n")
    status, records = await shell(NOBODY)
    assert (status, records) == (2, [])
    assert f"The environment variable {name} ends with a line feed (newline), so" in shell.error
    assert "hidden" not in shell.error
    assert not shell.sandbox.log.connections


async def test_skipping_everything_leaves_nothing(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed(monkeypatch, "x y\n")
    assert await shell("--from", "-", "--skip-bad") == (4, [])
    assert "There is nothing to cancel: stdin names no order (its lines: 1 bad)." in shell.error
    feed(monkeypatch, "\n\n")
    assert await shell("--from", "-") == (4, [])
    assert shell.error == "trio-cancel: There is nothing to cancel: stdin names no order (it is empty).\n"
    feed(monkeypatch, "# one\n# two\n")
    assert await shell("--from", "-") == (4, [])
    assert "(its lines: 2 skipped (comments, repeated headers))" in shell.error
    (tmp_path / "none.txt").touch()
    assert await shell("--from", str(tmp_path / "none.txt")) == (4, [])
    assert f"the file {tmp_path / 'none.txt'} names no order (it is empty)" in shell.error
    assert await shell() == (2, [])
    assert shell.error.endswith("See trio-cancel cancel --help.\n")


async def test_a_wrong_file_of_many_lines_is_told_in_few(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    feed(monkeypatch, "not an id\n" * 20_000)
    assert await shell("--from", "-") == (2, [])
    lines = shell.error.splitlines()
    assert len(lines) == 12
    assert lines[10] == "trio-cancel: and 19,990 more like these"
    assert "20,000 bad lines" in lines[11]
    feed(monkeypatch, "# a comment\n" * 11 + f"{NOBODY}\n")
    assert (await shell("--from", "-"))[0] == 1
    assert shell.error.count("a comment; skipped") == 10
    assert "and 1 more like these" in shell.error


async def test_lines_can_be_joined_to_the_input(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    order = shell.sandbox.book.create(external_id="venue's")
    feed(monkeypatch, f"id,external_id\n{order.id},a\n{order.id.lower()},b\n{NOBODY},c\n{NOBODY},\n,only\n")
    status, records = await shell("--from", "-")
    assert status == 1
    assert {(record["id"], record["external_id"], record["repeated"]) for record in records} == {
        (order.id, "a", False),
        (order.id.lower(), "b", True),
        (NOBODY, "c", False),
        (NOBODY, None, True),
        (None, "only", False),
    }
    assert "3 orders (2 named again): 1 canceled, 2 not found" in shell.error
    assert "2 orders may still be on the book" in shell.error
    assert " more" not in shell.error


async def test_a_blank_in_an_argument_is_told_as_that(shell: Shell) -> None:
    assert await shell("a b") == (2, [])
    assert "no order id does; give each id as a separate argument" in shell.error
    assert "CSV" not in shell.error


# What is told


async def test_ids_from_everywhere_are_each_told_once_for_each_place(shell: Shell, tmp_path: Path) -> None:
    orders = [shell.sandbox.book.create(external_id=f"mine-{n}") for n in range(4)]
    (tmp_path / "ids.jsonl").write_text(
        f'{{"id": "{orders[0].id}"}}\n{{"external_id": "mine-3"}}\n{{"id": "{orders[1].id}", "external_id": "x"}}\n'
    )
    status, records = await shell(
        orders[0].id, orders[0].id, "--external-id", "mine-2", "--from", str(tmp_path / "ids.jsonl")
    )
    assert status == 0
    assert len(records) == 6
    assert sum(record["id"] == orders[0].id for record in records) == 3
    assert len(shell.sandbox.log.requests) == 4
    assert shell.error == "trio-cancel: 4 orders (2 named again): 4 canceled\n"
    assert [record["id"] for record in records if not record["repeated"]] == [
        record["id"] for record in records[:1]
    ] + [record["id"] for record in records[3:]]
    assert {(record["id"], record["external_id"]) for record in records} >= {(orders[1].id, "x")}


async def test_an_external_id_may_look_like_an_option(shell: Shell) -> None:
    shell.sandbox.book.create(external_id="--json")
    shell.sandbox.book.create(external_id="-5")
    status, records = await shell("--external-id", "--json", "--external-id=-5")
    assert (status, kinds(records)) == (0, ["canceled"] * 2)


async def test_our_own_output_is_an_input(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    order = shell.sandbox.book.create()
    shell.sandbox.fault_on(order.id, Fault.REFUSE_UNKNOWN_CODE)
    status, records = await shell(order.id)
    assert status == 3
    feed(monkeypatch, "".join(json.dumps(record) + "\n" for record in records))
    status, records = await shell("--from", "-")
    assert (status, kinds(records)) == (0, ["canceled"])


async def test_the_venue_cannot_write_on_the_terminal(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    order = shell.sandbox.book.create()
    evil = {"id": None, "status": 400, "result": None, "error": {"error_code": 1, "message": "\x1b[2J\n\x07"}}

    def answer(request: Any) -> CustomReply:
        return CustomReply(json.dumps({**evil, "id": request.request_id}))

    shell.sandbox.script(answer)
    monkeypatch.setattr(_output, "is_terminal", lambda stream: stream is sys.stdout)
    status = await run_async(["cancel", order.id, NOBODY, "--url", shell.sandbox.url, "--ca-file", str(shell.ca_file)])
    printed = shell.capture.readouterr()
    assert status == 3
    assert "\x1b" not in printed.out + printed.err
    assert "\x07" not in printed.out + printed.err
    assert len(printed.out.splitlines()) == 2


class Screen(io.StringIO):
    """A terminal of 80 columns, in memory."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Screen]:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")

    def replace(name: str) -> Screen:
        screen = Screen()
        monkeypatch.setattr(sys, name, screen)
        return screen

    return replace


async def test_a_terminal_gets_text_progress_and_a_table(
    shell: Shell, terminal: Callable[[str], Screen], monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = [shell.sandbox.book.create().id for _ in range(30)]
    screen = terminal("stderr")
    monkeypatch.setattr(sys, "stdout", screen)
    status, _ = await shell(*orders, NOBODY)
    shown = screen.getvalue()
    assert status == 1
    assert " 0/31" in shown  # the bar is drawn when it begins; a venue this near may be done before it is drawn again
    assert all(order in shown for order in orders)
    assert "off the book" in shown
    assert "nothing executed" in shown


async def test_json_on_a_terminal(shell: Shell, terminal: Callable[[str], Screen]) -> None:
    order = shell.sandbox.book.create()
    screen = terminal("stdout")
    status, _ = await shell(order.id, "--json")
    assert status == 0
    assert json.loads(screen.getvalue())["status"] == "canceled"
    assert "order: 1 canceled" in shell.error


async def test_a_terminal_for_stderr_alone_keeps_stdout_for_programs(
    shell: Shell, terminal: Callable[[str], Screen]
) -> None:
    orders = [shell.sandbox.book.create().id for _ in range(3)]
    screen = terminal("stderr")
    status, records = await shell(*orders)
    assert (status, kinds(records)) == (0, ["canceled"] * 3)
    assert "off the book" in screen.getvalue()


class Hung(Screen):
    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


async def test_a_terminal_that_has_gone_stops_nothing(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = [shell.sandbox.book.create().id for _ in range(3)]
    monkeypatch.setattr(sys, "stderr", Hung())
    status, records = await shell(*orders)
    assert (status, kinds(records)) == (0, ["canceled"] * 3)


async def test_a_stdout_that_is_closed_stops_nothing(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = [shell.sandbox.book.create().id for _ in range(30)]
    for closed in (None, io.StringIO()):
        if closed is not None:
            closed.close()
        monkeypatch.setattr(sys, "stdout", closed)
        status, _ = await shell(*orders)
        assert status == 0
        assert "stdout could not be written (stdout is closed): the cancels went on, 30 lines are lost" in shell.error
    assert not shell.sandbox.book.open_orders()


async def test_a_full_disk_stops_nothing(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = [shell.sandbox.book.create().id for _ in range(30)]
    with open("/dev/full", "w") as full:  # noqa: ASYNC230 - a device
        monkeypatch.setattr(sys, "stdout", full)
        status, _ = await shell(*orders)
    assert status == 0
    assert "stdout could not be written (No space left on device)" in shell.error
    assert not shell.sandbox.book.open_orders()


# Ending early


async def test_a_deadline_tells_unknown_and_not_sent(shell: Shell) -> None:
    orders = [shell.sandbox.book.create().id for _ in range(400)]
    shell.sandbox.script(lambda request: Fault.SILENT_AFTER)
    with trio.fail_after(10):
        status, records = await shell(*orders, "--deadline", "0.3")
    assert status == 3
    assert len(records) == 400
    assert set(kinds(records)) == {"not_sent", "unknown"}
    for record in records:
        assert "the deadline of 0.3 s passed before" in record["cause"]
        applied = shell.sandbox.log.applied(record["id"])
        assert not applied or record["status"] == "unknown"
    assert "the deadline of 0.3 s passed" in shell.error


async def test_a_deadline_while_connecting(shell: Shell) -> None:
    shell.sandbox.fault_on_upgrade(Fault.UPGRADE_SILENT)
    with trio.fail_after(10):
        status, records = await shell(NOBODY, "--external-id", "x", "--deadline", "0.2")
    assert (status, kinds(records)) == (1, ["not_sent"] * 2)


async def test_a_deadline_that_is_long_enough(shell: Shell) -> None:
    order = shell.sandbox.book.create()
    assert (await shell(order.id, "--deadline", "30"))[0] == 0
    assert "deadline" not in shell.error


async def wait_requests(sandbox: Sandbox, count: int) -> None:
    while len(sandbox.log.requests) < count:  # noqa: ASYNC110 - the sandbox has no event for it
        await trio.sleep(0.005)


@pytest.mark.parametrize(("signum", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
async def test_an_interrupt_drains_and_reports(shell: Shell, signum: int, expected: int) -> None:
    orders = [shell.sandbox.book.create().id for _ in range(600)]
    # Answers come late: they are waited for, and nothing further is sent meanwhile.
    shell.sandbox.faults = Faults(delay=(0.1, 0.3))
    shell.sandbox.script(lambda request: Fault.DELAYED)
    async with trio.open_nursery() as nursery:

        async def interrupt() -> None:
            await wait_requests(shell.sandbox, 1)
            signal.raise_signal(signum)

        nursery.start_soon(interrupt)
        with trio.fail_after(10):
            status, records = await shell(*orders)
    assert status == expected
    assert len(records) == 600
    assert len({record["id"] for record in records}) == 600
    assert "trio-cancel: interrupted; " in shell.error
    for record in records:
        if record["status"] == "canceled":
            assert shell.sandbox.log.applied(record["id"])
        else:
            assert record["status"] in {"not_sent", "unknown"}
            assert "interrupted before" in record["cause"]
        if record["status"] == "not_sent":
            assert not shell.sandbox.log.applied(record["id"])
    assert "not_sent" in kinds(records)


async def test_a_second_interrupt_ends_the_wait(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_run, "ANSWER_GRACE", 60.0)
    orders = [shell.sandbox.book.create().id for _ in range(5)]
    shell.sandbox.script(lambda request: Fault.SILENT_AFTER)
    async with trio.open_nursery() as nursery:

        async def interrupt() -> None:
            await wait_requests(shell.sandbox, 5)
            signal.raise_signal(signal.SIGINT)
            await trio.sleep(0.1)
            signal.raise_signal(signal.SIGINT)

        nursery.start_soon(interrupt)
        with trio.fail_after(10):
            status, records = await shell(*orders)
    assert (status, kinds(records)) == (130, ["unknown"] * 5)


# The frame around the commands


def test_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("cancel", "demo", "doctor", "sandbox"))
    for name in ("cancel", "demo", "doctor", "sandbox"):
        assert run([name, "--help"]) == 0
    assert "--skip-bad" in capsys.readouterr().out


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == version("trio-cancel")


@pytest.mark.parametrize("words", [["no-such-command"], ["--no-such-option"], ["demo", "x"]])
def test_a_command_that_is_none_is_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("debug", [False, True])
def test_a_traceback_is_shown_on_demand_only(
    debug: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RIPIO_API_TOKEN", raising=False)
    assert run(["cancel", NOBODY, *(["--debug"] if debug else [])]) == 2
    error = capsys.readouterr().err
    assert ("Traceback" in error) is debug
    assert error.splitlines()[-1].startswith("trio-cancel: No credentials")


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError("x\ny"), 3, "ZeroDivisionError: x y"),
        (BaseExceptionGroup("", [KeyboardInterrupt(), ValueError()]), 130, "interrupted"),
        (ExceptionGroup("", [ValueError("why")]), 3, "ValueError: why"),
    ],
)
def test_what_should_not_happen_is_one_line(
    error: BaseException,
    status: int,
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from trio_cancel._cli import _cancel

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(_cancel, "find_venue", fail)
    assert run(["cancel", NOBODY]) == status
    [line] = capsys.readouterr().err.splitlines()
    assert says in line


# The venue's other dialect


async def test_how_an_order_was_closed_is_in_the_lines(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    order, other = shell.sandbox.book.create(), shell.sandbox.book.create()
    codes = {order.id: (40020, "Order already canceled."), other.id: (40021, "Order executed completely.")}

    def answer(record: Any) -> CustomReply:
        code, words = codes[record.order_id]
        error = {"error_code": code, "message": words}
        return CustomReply(json.dumps({"id": record.request_id, "status": 400, "result": None, "error": error}))

    shell.sandbox.script(answer)
    status, records = await shell(order.id.lower(), other.id)
    assert status == 0
    assert {record["id"]: record["closed_as"] for record in records} == {
        order.id.lower(): "canceled",  # as it was given
        other.id: "executed",
    }
    monkeypatch.setattr(_output, "is_terminal", lambda stream: stream is sys.stdout)
    await run_async(["cancel", other.id, "--url", shell.sandbox.url, "--ca-file", str(shell.ca_file)])
    assert "executed before: 400 40021 Order executed completely." in shell.capture.readouterr().out


async def test_the_name_of_the_token_is_named_where_it_may_be_wrong(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_sandbox(token_field="apiToken") as sandbox:
        order = sandbox.book.create()
        monkeypatch.setenv("RIPIO_API_TOKEN", sandbox.credentials.api_token)
        monkeypatch.setenv("RIPIO_API_SECRET", sandbox.credentials.api_secret)
        assert await run_async(["cancel", order.id, "--url", sandbox.url]) == 1
        (line,) = capfd.readouterr().out.splitlines()
        assert json.loads(line)["cause"].endswith("choose api_token or apiToken with TRIO_CANCEL_TOKEN_FIELD")
        assert await run_async(["doctor", "--url", sandbox.url]) == 1
        assert "TRIO_CANCEL_TOKEN_FIELD" in capfd.readouterr().out
        monkeypatch.setenv("TRIO_CANCEL_TOKEN_FIELD", "apiToken")
        assert await run_async(["doctor", "--url", sandbox.url]) == 0
        assert await run_async(["cancel", order.id, "--url", sandbox.url]) == 0
        capfd.readouterr()
        monkeypatch.setenv("TRIO_CANCEL_TOKEN_FIELD", "token")
        assert await run_async(["cancel", order.id, "--url", sandbox.url]) == 2
        assert "TRIO_CANCEL_TOKEN_FIELD must be api_token or apiToken" in capfd.readouterr().err
