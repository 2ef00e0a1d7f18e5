"""What ``--help`` of each command prints besides its options: exit statuses, environment variables, examples."""

from __future__ import annotations

import shutil
import textwrap

import attrs
from cyclopts import Group

OWN = "Options"
CONNECTION = Group("Connection", sort_key=5)
"""What the commands that contact a venue have in common."""
COMMON = Group("For every command", sort_key=9)
WIDTH_MOST, WIDTH_LEAST = 100, 30

_CREDENTIALS = (
    ("RIPIO_API_TOKEN, RIPIO_API_SECRET", "the credentials"),
    ("RIPIO_API_TOKEN_FILE, RIPIO_API_SECRET_FILE", "files that contain them, instead"),
)
_WAY = (
    ("TRIO_CANCEL_URL", "the venue, if there is no --url"),
    ("TRIO_CANCEL_CA_FILE", "the certificate authority, if there is no --ca-file"),
    ("HTTPS_PROXY, ALL_PROXY, NO_PROXY", "the proxy, if there is no --proxy"),
)
_REST = (("TRIO_CANCEL_REST_URL", "the REST API, if there is no --rest-url"),)
_FIELD = (("TRIO_CANCEL_TOKEN_FIELD", "the name under which requests carry the token: api_token or apiToken"),)
_SIGNALS = (("130, 143, 129", "ended by Ctrl-C, SIGTERM or SIGHUP"),)
_OUTCOMES = (
    ("0", "every order was canceled or already closed"),
    ("1", "at least one was not found, rejected or not sent, or a line of the input was skipped"),
    ("2", "usage, credentials, or everything was refused for the signature"),
    ("3", "it is not known whether at least one order is off the book"),
)
_SIMPLE = (("0", "done"), ("2", "usage"))


@attrs.frozen
class Manual:
    """What the help says about a command; statuses and variables come with what they mean."""

    summary: str
    usage: str = ""
    about: str = ""
    statuses: tuple[tuple[str, str], ...] = _SIMPLE
    variables: tuple[tuple[str, str], ...] = ()
    examples: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The help above the options."""
        return f"{self.summary}\n\n{self.about}" if self.about else self.summary

    def epilogue(self) -> str:
        """Return the help below the options, as wide as the terminal within reason."""
        width = max(WIDTH_LEAST, min(WIDTH_MOST, shutil.get_terminal_size().columns))
        lines: list[str] = []
        for title, entries in (("Exit status", self.statuses), ("Environment", self.variables)):
            if entries:
                lines.append(f"{title}:")
                for name, meaning in entries:
                    text = f"{name}: {meaning}"
                    lines += textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="    ")
                lines.append("")
        lines.append(f"Example{'s' if len(self.examples) > 1 else ''}:")
        for example in self.examples:
            lines += _command(example, width)
        return "\n".join(lines)


def _command(line: str, width: int) -> list[str]:
    """Return a command line, wrapped so that a shell reads it as one."""
    wrapped = textwrap.wrap(
        line,
        width - 2,
        initial_indent="  ",
        subsequent_indent="      ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [f"{part} \\" for part in wrapped[:-1]] + wrapped[-1:]


MANUALS = {
    "demo": Manual(
        "Cancel a thousand orders at a local sandbox exchange, and show how it went.",
        "[OPTIONS]",
        "The exchange runs in this process, over TLS. It checks every signature and keeps a book. The demo needs no "
        "credentials and no network.",
        (*_OUTCOMES, *_SIGNALS),
        examples=("trio-cancel demo", "trio-cancel demo --orders 20000"),
    ),
    "cancel": Manual(
        "Cancel orders and report what happened to each.",
        "[OPTIONS] [ID...]",
        "All input is read and checked before anything is sent. Each outcome is printed on stdout as it arrives: as "
        "JSON with --json or if stdout is not a terminal, otherwise as text. Progress and the summary go to stderr.",
        (
            _OUTCOMES[0],
            ("1", f"{_OUTCOMES[1][1]}, or the list of --open is not complete"),
            *_OUTCOMES[2:],
            ("4", "the input named no order: an empty file or pipe, or only comments"),
            *_SIGNALS,
        ),
        (*_CREDENTIALS, *_WAY, *_REST, *_FIELD),
        (
            "trio-cancel cancel 7155ED34-9EC4-4733-8B32-1E4319CB662F",
            "trio-cancel cancel --external-id my-order-123 --json",
            "grep BTC ids.txt | trio-cancel cancel --from - --journal bot.journal",
            "trio-cancel cancel --env-file ripio.env --from orders.csv --rate 20",
        ),
    ),
    "show": Manual(
        "Show what the venue says about orders now.",
        "[OPTIONS] [ID...]",
        "Nothing is canceled. An order that is shown as open may have been closed meanwhile: the venue's answers may "
        "be outdated.",
        (
            ("0", "every order was shown"),
            ("1", "at least one was not found or could not be looked up"),
            ("2", "usage or credentials"),
            *_SIGNALS,
        ),
        (*_CREDENTIALS, *_REST, *_WAY[1:]),
        ("trio-cancel show 7155ED34-9EC4-4733-8B32-1E4319CB662F", "trio-cancel show --external-id my-order-123"),
    ),
    "resume": Manual(
        "Cancel orders that a dead process left held or unsettled in its journal.",
        "[OPTIONS] FILE",
        "It reports what happened to each order. You can safely run it again. External ids older than an hour are "
        "listed and left alone.",
        (
            *_OUTCOMES[:2],
            ("2", "usage, credentials, or the journal cannot be used, belongs to another account, or is still in use"),
            _OUTCOMES[3],
            *_SIGNALS,
        ),
        (*_CREDENTIALS, *_WAY[1:], *_REST, *_FIELD),
        ("trio-cancel resume bot.journal", "trio-cancel resume bot.journal --missing-ok && python bot.py"),
    ),
    "journal": Manual(
        "Show what happened to each order in a journal.",
        "[OPTIONS] FILE",
        "Times are UTC; on a terminal they are shown to the second. FILE may be a journal in a database, "
        "postgresql://host/database?journal=NAME, here and for resume and cancel --journal.",
        (("0", "done"), ("1", "--order names an order that is not in it"), ("2", "usage, or it cannot be read")),
        examples=("trio-cancel journal bot.journal --left", "trio-cancel journal bot.journal --since 2h --json"),
    ),
    "guard": Manual(
        "Watch the journals in a database, and cancel what dead sessions held.",
        "[OPTIONS] URL",
        "If nothing has been heard of a session for its lease, the guard takes it over and cancels every order that it "
        "held. Several guards may run, on several machines; one of them takes over each journal. Each outcome is a "
        "line on stdout. It runs until a signal ends it.",
        (
            ("0", "a signal ended it; with --once: nothing is left"),
            ("1", "something is left, or a journal has no guard to cancel for it (with --once or --status)"),
            ("2", "usage, credentials, or the database cannot be used; with --once: it has not answered for 10 s"),
        ),
        (_WAY[1],),
        (
            "trio-cancel guard postgresql://guard@db1/trading --credentials /etc/trio-cancel",
            "trio-cancel guard postgresql://guard@db1/trading --credentials accounts --once --json",
            "trio-cancel guard postgresql://guard@db1/trading --status",
        ),
    ),
    "sandbox": Manual(
        "Run an exchange for trying things out, on the loopback interface.",
        "[OPTIONS] [-- COMMAND...]",
        "It serves until interrupted, or while COMMAND runs. It prints its urls, its credentials, some order ids, and "
        "commands that cancel these orders and look them up. The variables for programs are TRIO_CANCEL_URL, "
        "TRIO_CANCEL_REST_URL, RIPIO_API_TOKEN, RIPIO_API_SECRET, TRIO_CANCEL_TOKEN_FIELD, with TLS SSL_CERT_FILE, and "
        "SANDBOX_ORDER_IDS: up to 100 order ids, separated by commas.",
        (
            ("0", "a signal ended it"),
            ("2", "usage, or the port or a file cannot be used"),
            ("with COMMAND", "that of the command, or 128 plus the signal's number if a signal ended it"),
        ),
        examples=(
            "trio-cancel sandbox --orders 100 --tls",
            "trio-cancel sandbox --rate 20 --fault drop_after=0.1 -- python bot.py",
        ),
    ),
    "fault": Manual(
        "Make a running sandbox misbehave, from another process.",
        "[OPTIONS] [NAME...]",
        "Without a NAME it lists the available faults, the chance of each, and how often it has fired. Several faults "
        "that hit once are applied one after another.",
        (("0", "done"), ("2", "usage, or there is no such sandbox")),
        _WAY[:2],
        ("trio-cancel fault drop_after", "trio-cancel fault --clear silent_after=0.1"),
    ),
    "doctor": Manual(
        "Check the way to the venue, the clock and the credentials.",
        "[OPTIONS]",
        "No order is touched. The REST side, where orders are looked up, is checked if its address is known: the "
        "venue's, or what --rest-url names.",
        (("0", "nothing failed"), ("1", "something failed"), ("2", "usage")),
        (*_CREDENTIALS, *_WAY, *_REST, *_FIELD),
        ("trio-cancel doctor", "trio-cancel doctor --env-file ripio.env --json"),
    ),
    "completion": Manual(
        "Print a script that completes commands and options in a shell.",
        "SHELL",
        "SHELL is bash, zsh or fish. Run the script when the shell starts, as below.",
        examples=(
            "trio-cancel completion bash > ~/.local/share/bash-completion/completions/trio-cancel",
            "trio-cancel completion zsh > ~/.zfunc/_trio-cancel",
            "trio-cancel completion fish > ~/.config/fish/completions/trio-cancel.fish",
        ),
    ),
}

PROGRAM = Manual(
    "Cancel orders at Ripio Trade, and find out what happened to each of them.",
    "COMMAND [OPTIONS]",
    statuses=(
        ("0", "done"),
        ("1", "something is left; 3: something is unknown; 4: there was nothing to do"),
        ("2", "usage, configuration or credentials"),
        *_SIGNALS,
    ),
    variables=(*_CREDENTIALS, *_WAY, *_REST),
    examples=("trio-cancel demo", "trio-cancel help cancel"),
)
