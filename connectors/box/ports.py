"""Free ports on 127.0.0.1 for servers that keep theirs over restarts.

Never from the kernel's ephemeral range: while such a server is down, a client that keeps reconnecting can be given the very
port as its source, connect to itself and hold it, and the server cannot come back.
"""

import random
import socket
from collections.abc import Iterable

LOW, HIGH = 20_000, 29_999
ATTEMPTS = 200


def is_free(port: int) -> bool:
    """True if a server could listen on it now (as servers do: with SO_REUSEADDR)."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def accepts(port: int) -> bool:
    """True if something listens on it."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port(taken: Iterable[int] = ()) -> int:
    """A port that nothing listens on and that is not among `taken`.

    Raises:
        OSError: none found.
    """
    taken = set(taken)
    for _ in range(ATTEMPTS):
        port = random.randint(LOW, HIGH)
        if port not in taken and is_free(port):
            return port
    raise OSError(f"no free port found between {LOW} and {HIGH}")
