"""``trio-cancel journal --html``: one page, which asks for nothing, and in which no id is anything but text."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from trio_cancel import Credentials
from trio_cancel._cli import _page, run
from trio_cancel._journal.rows import Changes
from trio_cancel._journal.sqlite import SQLiteStore
from trio_cancel._journal.store import Account
from trio_cancel.journal import read_journal

HOSTILE = (
    "</script><script>document.title='caught'</script>",
    "<img src=https://evil.example/x.png onerror=\"document.title='caught'\">",
    '"><svg onload=alert(1)>',
    '<a href="https://evil.example">mm</a>',
    "&lt;b&gt; %{x} %{customdata} {{title}} {title}",
    "-->]]>'\\\"\u2028\x1b[31m",
    "Ω mm 42 🙂",
)
NOW = 1_764_000_000_000_000
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def browser() -> str:
    """A browser, where there is one."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium: the page is parsed by another test, and not opened")
    return found


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A dead session's journal: some orders canceled, over two connections, one unanswered, some left."""
    path = tmp_path / "the.journal"
    store = SQLiteStore.open(path, Account("wss://venue.example", Credentials("the-token", "the-secret")), "dead", NOW)
    changes = Changes()
    for number, name in enumerate(HOSTILE, 1):
        at = NOW + number * 1_000_000
        changes.holds.append((number, 1, 1, name, at, None, None))
        changes.placed.append((number, at, f"ID-{number}"))
        intent = 100 + number
        changes.intents.append((intent, 1, 0, f"id-{number}", at + 400_000))
        if number % 3:
            changes.releases.append((number, at + 500_000))
            changes.answers.append(
                (
                    number,
                    intent,
                    1 + number % 2,
                    at + 410_000,
                    at + 450_000,
                    200,
                    "canceled",
                    None,
                )
            )
        else:
            changes.attempts.append((number, intent, 1, at + 410_000, None, None))
            changes.outcomes.append((intent, "unknown", at + 900_000, None))
    store.commit(changes)
    store.close()
    return path


def page_of(journal: Path, *words: str) -> str:
    out = journal.with_name("page.html")
    assert run(["journal", str(journal), "--html", str(out), *words]) == 0
    return out.read_text("utf-8")


class Elements(HTMLParser):
    """What a browser would make of the page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_no_id_is_anything_but_text_and_nothing_is_asked_for(journal: Path) -> None:
    page = page_of(journal)
    elements = Elements(page)
    names = {tag for tag, _ in elements.tags}
    assert names <= {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "div", "script", "br", "span"),
        *("table", "tr", "th", "td"),
    }, names
    for tag, attributes in elements.tags:
        assert not {"src", "href"} & attributes.keys(), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
    (policy,) = [attributes["content"] for tag, attributes in elements.tags if "http-equiv" in attributes]
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    text = "".join(elements.text)
    assert HOSTILE[1] in text
    assert HOSTILE[-1] in text
    assert "\x1b" not in page
    assert "the-secret" not in page
    assert "the-token" not in page


def test_an_order_is_one_row_however_it_was_asked_for(journal: Path) -> None:
    contents = read_journal(journal)
    assert len(contents.orders) == 2 * len(HOSTILE)
    joined = _page._joined(list(contents.orders))
    assert [order.request.external_id for order in joined] == list(HOSTILE)
    assert [[cancel.kind for cancel in order.cancels] for order in joined][:3] == [
        ["canceled"],
        ["canceled"],
        ["unknown"],
    ]
    assert [order.left for order in joined] == [False, False, True, False, False, True, False]


def test_of_many_orders_the_newest_are_drawn(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_page, "ORDERS_MOST", 3)
    page = page_of(journal)
    assert "The newest 3 of them are below" in page
    assert page.count("<tr><td>") == 3
    assert "<h2>Orders</h2>" in page_of(journal, "--since", "2099-01-01")  # none at all


def test_the_page_never_takes_a_journals_place(
    journal: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = journal.read_bytes()
    other = tmp_path / "other.journal"
    shutil.copy(journal, other)
    link = tmp_path / "link"
    link.symlink_to(journal)
    wrong = (journal, f"{journal}-wal", f"{journal}.lock", other, link, tmp_path, "", tmp_path / "no" / "page.html")
    for path in wrong:
        assert run(["journal", str(journal), "--html", str(path)]) == 2, path
        assert capfd.readouterr().err.startswith("trio-cancel: ")
    assert journal.read_bytes() == other.read_bytes() == before
    assert not list(tmp_path.glob("*.new-page"))
    assert run(["journal", str(journal), "--html", str(tmp_path / "page"), "--json"]) == 2


def test_without_what_draws_it_says_what_to_install(
    journal: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    assert run(["journal", str(journal), "--html", str(journal.with_name("page"))]) == 2
    assert "trio-cancel[html]" in capfd.readouterr().err


def test_a_real_browser_draws_it(journal: Path, tmp_path: Path) -> None:
    program = browser()
    page_of(journal)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1300,1100", "--virtual-time-budget=10000"]
    options += [
        f"--user-data-dir={tmp_path / 'profile'}",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--enable-logging=stderr",
    ]
    done = subprocess.run(
        [program, *options, "--dump-dom", (tmp_path / "page.html").as_uri()],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=True,
    )
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert said == [], "no error, and nothing that the page's policy had to refuse"
    dom = done.stdout
    assert "<title>Journal the.journal</title>" in dom
    assert 'class="main-svg"' in dom
    assert dom.count('class="scatterlayer') >= 2
    labels = [html.unescape(label) for label in re.findall(r'<g class="y2tick"><text [^>]*>(.*?)</text>', dom)]
    assert labels == [_page._name_of(order) for order in _page._joined(list(read_journal(journal).orders))]
    for legend in ("session", "connection", "held, and left", "attempt, no answer", "canceled", "unknown"):
        assert f">{legend}</text>" in dom
    assert "<img src=" not in dom.replace("&lt;", "")
