"""The sandbox exchange in a process of its own: prints its url, serves until its standard input ends."""

from __future__ import annotations

import sys

import trio

from trio_cancel.sandbox import open_sandbox


async def main() -> None:
    async with open_sandbox(delay=0.002) as sandbox:
        print(sandbox.url, flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)


if __name__ == "__main__":
    trio.run(main)
