"""Whether the connection to the transaction coordinator was lost, which librdkafka tells its log and nobody else.

When it loses that connection with an end of transaction under way, it connects again, sends a second one and reports success. The first one
may still arrive, and in the protocol before KIP-890 nothing in it says which transaction it meant: the broker commits whatever is open
then, the first half of the next transaction (seen on Kafka 4.3.1 and 4.2.2 with librdkafka 2.16, tests/chaos/test_transactions.py). Only a new epoch
of the producer makes it harmless, and a restart takes one.
"""

import logging
from typing import Any

import structlog

log = structlog.get_logger(__name__)

LOST = ("FAIL", "REQTMOUT")
"""librdkafka's words for a connection that ended (at level INFO when something was under way; an idle one ends at DEBUG), and for a request
that it no longer waits for: after `transaction.timeout.ms` it sends another end of the transaction on the same connection."""
COORDINATOR = "[thrd:TxnCoordinator]"


class CoordinatorWatch(logging.Handler):
    """Hears librdkafka's log lines of one producer, which arrive when it is polled. `config` goes into the producer's settings."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lost = ""
        """What was said when the connection ended; empty as long as it never did."""
        heard = logging.Logger("librdkafka", logging.INFO)
        heard.addHandler(self)
        self.config: dict[str, Any] = {"logger": heard}

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message.startswith(LOST) and COORDINATOR in message:
            self.lost = message
        if record.levelno >= logging.WARNING:
            log.warning("producer.said", message=message)
