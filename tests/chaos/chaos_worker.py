"""A worker for chaos runs: `python chaos_worker.py hurried|unfenced ORDERFLOW-ARGUMENTS`.

hurried: the production worker, but a commit without an answer is given up after 10 s instead of 30, so that a round is short.
unfenced: the same, and it does not hear that the connection to the coordinator was lost: what librdkafka alone would do. The control.
"""

import sys
from typing import Any

from orderflow.cli.main import main
from orderflow.streams.coordinator import CoordinatorWatch
from orderflow.streams.transaction import Transaction

GIVE_UP_S = 10.0


def hurry() -> None:
    whole = Transaction.commit

    def commit(self: Transaction, offsets: Any, group: Any, within_s: float = GIVE_UP_S) -> None:
        whole(self, offsets, group, min(within_s, GIVE_UP_S))

    Transaction.commit = commit  # type: ignore[method-assign]


def unfence() -> None:
    CoordinatorWatch.emit = lambda self, record: None  # type: ignore[method-assign]


if __name__ == "__main__":
    hurry()
    if sys.argv.pop(1) == "unfenced":
        unfence()
    main()
