"""Past seeds: each once found something that is fixed since."""

from collections.abc import Iterator
from pathlib import Path

FILE = Path(__file__).with_name("corpus.txt")


def past() -> Iterator[tuple[str, int]]:
    """(profile, seed) of each line; lines are `profile seed why`."""
    for line in FILE.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            profile, seed, *_ = line.split()
            yield profile, int(seed)
