"""``python -m tools.campaign --sequences 100000 --seed 0``: a long run, with counts and findings.

Sequences are drawn in batches. Each batch has its own integer: seed, seed + 1, and so on. A batch ends at its first
failure, which is shrunk and printed with the command to reproduce it.
"""

from __future__ import annotations

import argparse
import math
import sys

from tqdm import tqdm

from tools.campaign.batches import outcomes
from tools.campaign.report import counts, write
from tools.campaign.sequence import Tally


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.campaign", description=__doc__)
    parser.add_argument("--sequences", type=int, default=1000, help="how many sequences of operations")
    parser.add_argument("--seed", type=int, default=0, help="the integer of the first batch")
    parser.add_argument("--minutes", type=float, default=math.inf, help="end after this time at the latest")
    parser.add_argument("--workers", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--write", action="store_true", help="write the outcome into tests/RELIABILITY.md")
    arguments = parser.parse_args()
    total, findings = Tally(), []
    for tally, finding in outcomes(arguments.sequences, arguments.seed, arguments.minutes, arguments.workers):
        total.add(tally)
        if finding is not None:
            findings.append(finding)
            tqdm.write(finding)
    print(f"{total.sequences:,} sequences, {len(findings)} findings\n\n{counts(total, findings)}")
    if arguments.write:
        write(f"python -m tools.campaign {' '.join(sys.argv[1:])}", total, findings)


if __name__ == "__main__":
    main()
