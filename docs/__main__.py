"""Build the manual, and look at it: ``python -m docs``; with ``--check``, build it alone."""

from __future__ import annotations

import argparse
import functools
import http.server
import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
BUILD = FOLDER / "_build"


def build() -> int:
    """Build every page; a warning, such as a name that leads nowhere, is an error."""
    shutil.rmtree(BUILD / "html", ignore_errors=True)  # or a page that was renamed would stay
    places: list[str | Path] = ["-c", FOLDER, "-d", BUILD / "doctrees", FOLDER.parent, BUILD / "html"]
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "sphinx",
        "-b",
        "html",
        "-q",
        "-n",
        "-W",
        "--keep-going",
        *places,
    ]
    return subprocess.run(command, check=False).returncode


def serve(port: int) -> None:
    """Show what was built to a browser on this machine, until Ctrl-C."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=BUILD / "html")
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        print(f"The manual is at http://127.0.0.1:{server.server_port}/ until Ctrl-C.", flush=True)
        server.serve_forever()


def main() -> None:
    """Build, and unless asked only to check, serve."""
    parser = argparse.ArgumentParser(prog="python -m docs", description="Build the manual, and look at it.")
    parser.add_argument("--check", action="store_true", help="only build; the exit code says whether it went well")
    parser.add_argument("--port", type=int, default=8000, help="where to look at it; 8000 if not given")
    options = parser.parse_args()
    failed = build()
    if failed or options.check:
        sys.exit(failed)
    try:
        serve(options.port)
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
