"""Records the engine itself writes: replies to waiting edges, who owns which partition, how far a partition has come."""

from msgspec import Struct


class Reply(Struct, frozen=True, gc=False):
    """The answer to a command, for the edge that waits. Outcome: applied or refused; body: a framed snapshot or Refused record."""

    request_id: str
    command_id: str
    key: str
    sequence: int
    outcome: str
    reason: str = ""
    body: bytes = b""


class Worker(Struct, frozen=True, gc=False):
    """The owner of `<space>:<partition>`: where its rows can be read."""

    address: str
    generation: int
    code_version: str


class MetaRow(Struct, frozen=True, gc=False):
    """How far a partition has come, in the same transaction as its outputs."""

    source_offset: int
    turn_time: int
    transactional_id: str
    digest: int = 0
    min_reader: int = 1
