"""Build and show the manual: ``python -m docs``; with ``--check``, only build it."""

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
    """Build every page. A warning, such as a link without a target, is an error."""
    shutil.rmtree(BUILD / "html", ignore_errors=True)  # otherwise renamed pages would remain
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
    """Serve the built pages on this machine until Ctrl-C."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=BUILD / "html")
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        print(f"The manual is at http://127.0.0.1:{server.server_port}/ until Ctrl-C.", flush=True)
        server.serve_forever()


def main() -> None:
    """Build the manual, and serve it unless ``--check`` is given."""
    parser = argparse.ArgumentParser(prog="python -m docs", description="Build and show the manual.")
    parser.add_argument("--check", action="store_true", help="only build; the exit code is 0 if the build succeeds")
    parser.add_argument("--port", type=int, default=8000, help="the port of the server (default: 8000)")
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
