"""One request on its way through the edge: what it said about itself, and the parts that serve it.

Route modules see a Call and nothing of aiohttp's request: they name a body model, send a command, and turn its outcome into a view.
"""

import asyncio
import re
import time
from typing import TypeVar

from aiohttp import web
from msgspec import Struct
from multidict import CIMultiDictProxy
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from orderflow.http import bodies, idempotency, limits
from orderflow.http.gateway import Ask, Denied, Gateway, Outcome
from orderflow.http.meters import Meters
from orderflow.http.problems import Fault, Problem
from orderflow.http.reads import Reads
from orderflow.http.senders import Nobody, Senders
from orderflow.http.settings import EdgeSettings
from orderflow.http.timeline import Timeline
from orderflow.http.views import AcceptedView
from orderflow.schemas import catalog
from orderflow.streams.domain.contract import CommandMeta

Model = TypeVar("Model", bound=BaseModel)
_REQUEST_ID = re.compile(bodies.ID_PATTERN)
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE = re.compile(r"[\x20-\x7e]{1,512}")
PARKED = "PARKED"
"""The reason of a command that went to the dead letters."""
_ETAG = re.compile(r'"(\d{1,18})"')


REQUEST_ID = web.RequestKey("request_id", str)
"""Where the guard leaves the request's id: in the answer, the log and every record it is the same."""


class Caller(Struct, frozen=True):
    """Who asks, and as what: customer or staff. No name holds `|` (contracts.md 1)."""

    tenant: str
    principal: str
    role: str


DEMO = Caller("main", "demo", "staff")
"""Everybody, in the profile that asks nobody for a token."""


class Parts(Struct, frozen=True):
    """What serves a call. `draining` is set once the edge is asked to stop."""

    settings: EdgeSettings
    gateway: Gateway
    reads: Reads
    timeline: Timeline
    meters: Meters
    draining: asyncio.Event
    strangers: limits.Strangers
    senders: Senders = Nobody()


class Name(Struct, frozen=True):
    """What a command is known by when it is repeated: its id, and the fingerprint of what it asks."""

    command_id: str
    body_hash: str


class Call:
    """One request to one route: `template` is its method and path template, `id_pattern` what an id in its path looks like."""

    def __init__(self, request: web.Request, parts: Parts, template: str, id_pattern: str) -> None:
        self.request = request
        self.parts = parts
        self.template = template
        self.id_pattern = id_pattern
        self.caller = DEMO

    # -- what was asked -----------------------------------------------------------------------------------------------------------
    def id(self, name: str) -> str:
        """An id of the path. Raises Problem when it cannot be one."""
        value = self.request.match_info[name]
        if re.fullmatch(self.id_pattern, value) is None:
            detail = f"must match {self.id_pattern}"
            raise Problem("SCHEMA_INVALID", faults=[{"parameter": name, "code": "SCHEMA_INVALID", "detail": detail}])
        return value

    def query(self, model: type[Model]) -> Model:
        """The query string as its model. Raises Problem naming every wrong parameter."""
        given = self.request.rel_url.query
        faults: list[Fault] = [
            {"parameter": name[:64], "code": "SCHEMA_INVALID", "detail": "must be printable text and appear once"}
            for name in sorted(set(given))
            if len(given.getall(name)) > 1 or not limits.is_safe(name + given[name])
        ]
        if not faults:
            try:
                return model.model_validate(dict(given), context=self.parts.settings)
            except ValidationError as error:
                faults = [_query_fault(one) for one in error.errors(include_url=False, include_input=False)]
        raise Problem("SCHEMA_INVALID", faults=faults[: bodies.FAULTS_MAX])

    async def body(self, model: type[Model]) -> Model:
        """The body as its model, read as JSON whatever its content type. Raises Problem naming every wrong field."""
        text = await limits.read_body(self.request, self.parts.settings)
        return bodies.read(model, bodies.parse(text), limits.Limits.of(self.parts.settings))

    def name(self, body: BaseModel, target: str = "", *, part: str = "") -> Name:
        """By the caller's Idempotency-Key, or random without one. `target` is the resource that the path names, `part` which of several
        commands of one request this is.
        """
        body_hash = idempotency.fingerprint(body, target)
        key = idempotency.key_in(self.request.headers)
        if key is None:
            return Name(idempotency.fresh_id(), body_hash)
        return Name(idempotency.derived_id(self.caller.tenant, self.caller.principal, self.template, key + part), body_hash)

    # -- what comes of it ---------------------------------------------------------------------------------------------------------
    async def ask(self, space: str, key: str, command: Struct, name: Name) -> Outcome | None:
        """Send the command to the owner of `key` and wait for its outcome; None: it is in the log, without an outcome yet."""
        headers = self.request.headers
        meta = CommandMeta(
            name.command_id,
            time.time_ns() // 1000,
            tenant=self.caller.tenant,
            actor=self.caller.principal,
            principal=self.caller.principal,
            correlation_id=self.request[REQUEST_ID],
            expected_version=version_in(headers),
            body_hash=name.body_hash,
        )
        outcome = await self.parts.gateway.ask(Ask(space, key, command, meta, trace_in(headers)))
        self.parts.meters.command(type(command).__name__, outcome)
        return outcome

    def refusal(self, denied: Denied, **members: str) -> Problem:
        """The problem of a refused command: its reason, and the shortages where stock could not give."""
        more: dict[str, object] = dict(members)
        detail = ""
        if denied.refused is not None:
            detail = "; ".join(f"{name}: {value}" for name, value in denied.refused.detail.items())
            if denied.refused.shortages:
                more["shortages"] = [
                    {"sku": each.sku, "requested": each.requested, "available": each.available} for each in denied.refused.shortages
                ]
        status = catalog.http_code(denied.reason, if_match=version_in(self.request.headers) is not None)
        if denied.reason == PARKED:
            status, detail = 500, "the command could not be decided and was set aside for an operator"
        return Problem(denied.reason, detail, status=status, members=more)

    def show(self, view: BaseModel, version: int) -> web.Response:
        """200 with the view and its ETag, or 304 when the caller has this version already."""
        if self.request.headers.get("If-None-Match") == f'"{version}"':
            return web.Response(status=304, headers={"ETag": f'"{version}"'})
        return view_response(200, view, version=version)

    def accepted(self, name: Name, location: str, *, order_id: str | None = None, sku: str | None = None) -> web.Response:
        """202: the command is in the log and has no outcome yet; `location` is the resource itself."""
        view = AcceptedView(location=location, command_id=name.command_id, order_id=order_id, sku=sku)
        headers = {"Location": location, "Retry-After": str(self.parts.settings.retry_after_s)}
        body = view.model_dump_json(exclude_none=True).encode()
        return web.Response(status=202, body=body, content_type="application/json", headers=headers)


def view_response(status: int, view: BaseModel, *, version: int | None = None, location: str = "") -> web.Response:
    """A view as JSON; `version` becomes the ETag."""
    headers = {}
    if version is not None:
        headers["ETag"] = f'"{version}"'
    if location:
        headers["Location"] = location
    return web.Response(status=status, body=view.model_dump_json().encode(), content_type="application/json", headers=headers)


def request_id_in(headers: CIMultiDictProxy[str]) -> str:
    """The caller's X-Request-Id, else the trace it belongs to, else a new id (slot D40)."""
    given = headers.get("X-Request-Id", "")
    if _REQUEST_ID.fullmatch(given):
        return given
    trace = _TRACEPARENT.fullmatch(headers.get("traceparent", ""))
    return trace[1] if trace else idempotency.fresh_id()


def trace_in(headers: CIMultiDictProxy[str]) -> tuple[tuple[str, bytes], ...]:
    """W3C trace context as record headers; a malformed one is dropped, as the standard asks."""
    parent, state = headers.get("traceparent", ""), headers.get("tracestate", "")
    if _TRACEPARENT.fullmatch(parent) is None:
        return ()
    carried = (("traceparent", parent.encode()),)
    return (*carried, ("tracestate", state.encode())) if _TRACESTATE.fullmatch(state) else carried


def version_in(headers: CIMultiDictProxy[str]) -> int | None:
    """The version that If-Match asks for; None without one. Raises Problem when it is no ETag of ours."""
    given = headers.get("If-Match")
    if given is None or given == "*":
        return None
    match = _ETAG.fullmatch(given)
    if match is None:
        raise Problem("SCHEMA_INVALID", faults=[{"header": "If-Match", "code": "SCHEMA_INVALID", "detail": 'must be an ETag such as "3"'}])
    return int(match[1])


def _query_fault(error: ErrorDetails) -> Fault:
    detail = "is not a parameter of this request" if error["type"] == "extra_forbidden" else error["msg"]
    return {"parameter": str(error["loc"][0])[:64] if error["loc"] else "", "code": "SCHEMA_INVALID", "detail": detail[:300]}
