"""What a crawl makes of faulty servers: 80 faults, served on the loopback address.

Run: python benchmarks/faults.py        (about 20 s; from the repository's root)

Prints the table of docs/crawling.md: fault, what happens, requests, and the test that holds it. It
ends with an error where something else happened. Nothing outside this machine is reached.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.helpers.faults import crawl, table, wrong


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        _, _, outcomes = crawl(Path(folder))
    print(table(), end="")
    lines = wrong(outcomes)
    if lines:
        sys.exit("\n".join(["not as expected:", *lines]))


if __name__ == "__main__":
    main()
