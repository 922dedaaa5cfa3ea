"""The edge: a stateless HTTP application in front of the log. It composes the parts, guards every request and drains on a signal.

The whole edge is four moves: refuse what is malformed, send a command, wait for its outcome, show what its owner has committed.
"""

import asyncio
import signal
import time
from functools import partial

import structlog
from aiohttp import web
from confluent_kafka import KafkaException

from orderflow.http import limits, openapi
from orderflow.http.calls import Parts, request_id_in
from orderflow.http.feed import Feed, Source
from orderflow.http.gateway import KafkaGateway
from orderflow.http.meters import Meters
from orderflow.http.owners import Owners
from orderflow.http.problems import Problem
from orderflow.http.reads import Reads
from orderflow.http.settings import EdgeSettings
from orderflow.http.timeline import Timeline, consumer_config
from orderflow.streams.records import Records

log = structlog.get_logger(__name__)

SAFE_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


class StartRefused(Exception):
    """The edge will not start; every reason is one of `reasons`."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons
