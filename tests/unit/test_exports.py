"""The public names are pinned, and imports run downwards only."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import trio_cancel
import trio_cancel.sandbox
import trio_cancel.types

PACKAGE = Path(trio_cancel.__file__).parent

TOP = {
    "AlreadyClosed", "CancelNotSent", "CancelRequest", "Canceled", "ConfigurationError", "ConnectionLost",
    "Credentials", "HandshakeFailed", "Interrupted", "InvalidReply", "InvalidRequest", "InvalidSignature",
    "JournalError", "LookupFailed", "MissingParameters", "NoReply", "NotFound", "NotSent", "NotSurelyThisOrder",
    "NotWritten", "Observer", "OrderNotActive", "OrderNotFound", "OrdersLeft", "Outcome", "OutcomeUnknown", "Pacer",
    "RateLimited", "Rejected", "SessionClosed", "TakenOver", "TradingError", "TradingWS", "Unknown",
    "UnlistedRefusal", "VenueError", "VenueUnavailable", "cancel_on_signals", "open_guard", "open_trading_ws",
}  # fmt: skip
TYPES = {
    "Attempt", "Batch", "CancelReport", "CancelStream", "CanceledOrder", "InvalidItem", "LeaseState", "OffsetInterval",
    "OpenReport", "OrderScope", "OutcomeKind", "Outcomes", "SessionState", "Statistics", "VenueReply",
}  # fmt: skip
JOURNAL = {"JournalCancel", "JournalContents", "JournalHold", "JournalOrder", "JournalSession", "read_journal"}
LOOKUP = {"Fill", "OrderLookup", "OrderState", "OrderStatus", "RestLookup"}
FACES: dict[str, set[str]] = {
    "trio_cancel": TOP,
    "trio_cancel.types": TYPES,
    "trio_cancel.journal": JOURNAL,
    "trio_cancel.lookup": LOOKUP,
}
ALIASES = {"Outcome", "OutcomeKind"}  # unions have no docstring; their modules describe them


def public_names(module: object) -> set[str]:
    return {name for name in dir(module) if not name.startswith("_") and not inspect.ismodule(getattr(module, name))}


@pytest.mark.parametrize("face", sorted(FACES))
def test_the_public_names_are_these(face: str) -> None:
    module = importlib.import_module(face)
    assert sorted(module.__all__) == sorted(FACES[face])
    if face != "trio_cancel.lookup":  # which has code of its own, and so what that needs
        assert public_names(module) == FACES[face]


def test_each_public_name_has_one_home() -> None:
    names = [name for face in FACES.values() for name in face]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("face", ["trio_cancel", "trio_cancel.types", "trio_cancel.journal"])
def test_public_names_are_reexported_for_type_checkers(face: str) -> None:
    (tree,) = (tree for name, tree in MODULES.items() if name == face)
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                assert alias.asname == alias.name
    assert not any(isinstance(node, ast.FunctionDef) for node in tree.body), "plain imports, no __getattr__"
    assert (PACKAGE / "py.typed").exists()


@pytest.mark.parametrize(("face", "name"), [(face, name) for face in sorted(FACES) for name in sorted(FACES[face])])
def test_public_names_are_described(face: str, name: str) -> None:
    thing = getattr(importlib.import_module(face), name)
    if name not in ALIASES:
        assert inspect.getdoc(thing)
    if inspect.isclass(thing):
        assert thing.__doc__, "of its own, not inherited"
        for attribute, value in vars(thing).items():
            if not attribute.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                assert inspect.getdoc(value), f"{name}.{attribute}"


def test_the_version_has_one_source() -> None:
    assert trio_cancel.__version__ == importlib.metadata.version("trio-cancel")


def test_who_reads_no_journal_and_looks_nothing_up_does_not_wait_for_what_that_needs() -> None:
    # Under coverage the interpreter itself starts with sqlite3 and more, so only what our import adds is counted.
    ours = "import trio_cancel, trio_cancel.types"
    program = f"import sys; before = set(sys.modules); {ours}; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "trio_cancel.types" in loaded
    assert not loaded & {"sqlite3", "psycopg", "httpcore2", "pytest", "trio_cancel.journal", "trio_cancel.lookup"}


PROGRAM_ENDS = {"Interrupted"}  # a BaseException on purpose: no `except Exception` swallows it


@pytest.mark.parametrize("name", sorted(TOP))
def test_every_exception_descends_from_the_root(name: str) -> None:
    thing = getattr(trio_cancel, name)
    if inspect.isclass(thing) and issubclass(thing, BaseException):
        assert issubclass(thing, trio_cancel.TradingError) != (name in PROGRAM_ENDS)


FACING = ("", "_client", "_cancels", "_values", "lookup", "journal", "types")
"""What faces the user. What lies below has exceptions of its own, which are mapped before they come out."""


def raises() -> list[tuple[str, str]]:
    """What the code that faces the user raises by name, with where."""
    return [
        (f"{module}:{node.lineno}", ast.unparse(node.exc.func))
        for module, tree in MODULES.items()
        if part_of(module) in FACING
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    ]


INSIDE = {
    "IndexError": "as any sequence does",
    "AssertionError": "says that the library contradicts itself; it comes out of no correct one",
    "StopAsyncIteration": "ends an `async for`",
    "trio.BusyResourceError": "named by the docstrings: Batch.run",
}
"""What else may be raised, and why it need not descend from the root."""


def test_what_is_raised_by_name_descends_from_the_root_or_is_accounted_for() -> None:
    odd, seen = {}, raises()
    for where, name in seen:
        thing = getattr(trio_cancel, name.rpartition(".")[2], None)
        if name[:1].isupper() or "." in name:
            known = thing is not None and issubclass(thing, (trio_cancel.TradingError, trio_cancel.Interrupted))
            if not known and name not in INSIDE:
                odd[where] = name
    assert seen
    assert not odd


# Modules


def modules() -> dict[str, ast.Module]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ["trio_cancel", *path.relative_to(PACKAGE).with_suffix("").parts]
        if parts[-1] == "__init__":
            parts.pop()
        found[".".join(parts)] = ast.parse(path.read_text(encoding="utf-8"))
    return found


MODULES = modules()


def imports_of(tree: ast.AST, *, for_types_too: bool = False) -> set[str]:
    """Modules of ours that a module imports; those that only a type checker sees if asked for."""
    hidden = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for child in ast.walk(node)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in hidden and not for_types_too:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                names.add(whole if whole in MODULES else node.module)
    return {name for name in names if name.partition(".")[0] == "trio_cancel"}


def test_imports_never_go_in_a_circle() -> None:
    graph = {name: imports_of(tree, for_types_too=True) - {name} for name, tree in MODULES.items()}
    # A package is imported with anything below it; that is no dependency of one on what it re-exports.
    packages = {name for name in graph if any(other.startswith(name + ".") for other in graph)}
    done: set[str] = set()
    path: list[str] = []

    def visit(name: str) -> None:
        if name in done:
            return
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        path.append(name)
        for other in sorted(graph[name]):
            if other not in packages or not name.startswith(other + "."):
                visit(other)
        path.pop()
        done.add(name)

    for name in graph:
        visit(name)
    assert done == set(graph)


RANKS = {
    "_values": 0,
    "_net": 1,
    "_venue": 1,
    "_trio": 1,
    "_engine": 2,
    "_journal": 3,
    "_session": 4,
    "_cancels": 5,
    "_client": 6,
    "_guard": 7,
    "": 8,  # the public face: trio_cancel/__init__.py
    "journal": 9,
    "lookup": 9,
    "types": 9,
    "sandbox": 9,
    "_cli": 10,
    "testing": 10,
    "__main__": 11,
}
"""Every module's rank, by the first part of its name. Imports go down, or stay in the folder; siblings know nothing of
each other."""


def part_of(name: str) -> str:
    return [*name.split("."), ""][1]


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_run_downwards(name: str) -> None:
    part = part_of(name)
    assert part in RANKS, f"{name} has no rank"
    for other in imports_of(MODULES[name], for_types_too=True):
        below = part_of(other)
        assert below == part or RANKS[below] < RANKS[part], f"{name} imports {other}"


NOTHING_WAITS = ("_values", "_venue", "_engine")


@pytest.mark.parametrize("name", [name for name in sorted(MODULES) if part_of(name) in NOTHING_WAITS])
def test_decisions_are_made_without_waiting(name: str) -> None:
    tree = MODULES[name]
    assert not any(isinstance(node, ast.AsyncFunctionDef | ast.Await) for node in ast.walk(tree))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not imported & {"socket", "ssl", "asyncio", "trio_websocket", "wsproto", "h11"}


def test_the_sandbox_shares_no_wire_code_with_the_client() -> None:
    for name, tree in MODULES.items():
        if name.startswith("trio_cancel.sandbox"):
            for other in imports_of(tree):
                assert other.startswith("trio_cancel.sandbox") or other == "trio_cancel._values.models", (
                    f"{name}: {other}"
                )


def test_the_client_does_not_know_the_sandbox_or_the_command_line() -> None:
    upper = ("trio_cancel.sandbox", "trio_cancel._cli", "trio_cancel.testing", "trio_cancel.__main__")

    def is_upper(name: str) -> bool:
        return any(name == part or name.startswith(part + ".") for part in upper)

    for name, tree in MODULES.items():
        if not is_upper(name):
            assert not [other for other in imports_of(tree) if is_upper(other)], name


def test_one_module_knows_trio_websocket() -> None:
    knowing = [
        name
        for name, tree in MODULES.items()
        if any(
            (isinstance(node, ast.Import) and any(alias.name.startswith("trio_websocket") for alias in node.names))
            or (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trio_websocket"))
            for node in ast.walk(tree)
        )
    ]
    assert set(knowing) == {"trio_cancel._net.websocket", "trio_cancel.sandbox._side_door"}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_every_module_says_what_it_is(name: str) -> None:
    assert ast.get_docstring(MODULES[name]) or name == "trio_cancel._cli"


def test_a_class_name_means_one_thing() -> None:
    homes: dict[str, list[str]] = {}
    for module, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(module)
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}


def test_what_begins_can_be_imported_alone() -> None:
    assert importlib.import_module("trio_cancel").open_trading_ws is trio_cancel.open_trading_ws


def test_help_tells_what_each_state_means() -> None:
    for member in trio_cancel.types.SessionState:
        assert f"``{member.value}``: " in (trio_cancel.types.SessionState.__doc__ or ""), member
