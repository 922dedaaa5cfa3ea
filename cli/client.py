"""The HTTP edge as commands see it: the same API every caller gets, nothing beside it."""

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, Self, TypeAlias

import typer

from orderflow.cli.terminal import NO, UNAVAILABLE, UNDECIDED, Failure

DEFAULT_URL = "http://127.0.0.1:8080"
Url: TypeAlias = Annotated[str, typer.Option("--url", envvar="ORDERFLOW_URL", help="Base URL of the edge.")]
Key: TypeAlias = Annotated[str, typer.Option("--key", help="Idempotency-Key: a repeat with the same key meets its first answer.")]
REQUEST_TIMEOUT_S = 15.0
CONNECTIONS_MAX = 200


class Unreachable(Exception):
    """The edge did not answer at all."""


class Answer(NamedTuple):
    """An HTTP answer; `body` is empty when it was no JSON object."""

    status: int
    body: dict[str, Any]
    location: str = ""

    @property
    def code(self) -> str:
        """The reason of a refusal, empty otherwise."""
        return str(self.body.get("code", ""))


class Edge:
    """A session with one edge: `async with Edge(url) as edge: await edge.get("/api/v1/orders")`."""

    def __init__(self, url: str, timeout_s: float = REQUEST_TIMEOUT_S, connections: int = CONNECTIONS_MAX) -> None:
        self.url = url.rstrip("/")
        self._timeout_s, self._connections = timeout_s, connections

    async def __aenter__(self) -> Self:
        from aiohttp import ClientSession, ClientTimeout, TCPConnector

        timeout = ClientTimeout(total=self._timeout_s)
        self._session = ClientSession(timeout=timeout, connector=TCPConnector(limit=self._connections))
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._session.close()

    async def get(self, path: str, **query: str | int) -> Answer:
        return await self.call("GET", path, query={name: str(value) for name, value in query.items()})

    async def post(self, path: str, body: Mapping[str, Any], key: str = "") -> Answer:
        return await self.call("POST", path, body=body, key=key)

    async def call(
        self, method: str, path: str, *, body: Mapping[str, Any] | None = None, key: str = "", query: Mapping[str, str] | None = None
    ) -> Answer:
        """One request. Raises Unreachable when nobody answers."""
        from aiohttp import ClientError

        headers = {"Idempotency-Key": key} if key else {}
        try:
            async with self._session.request(method, self.url + path, json=body, params=query, headers=headers) as answer:
                try:
                    found = await answer.json(content_type=None)
                except ValueError:
                    found = None
                location = answer.headers.get("Location", "")
                return Answer(answer.status, found if isinstance(found, dict) else {}, location)
        except (ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"{self.url}: {error or type(error).__name__}") from None


def ask(
    url: str,
    method: str,
    path: str,
    *,
    body: Mapping[str, Any] | None = None,
    key: str = "",
    query: Mapping[str, str] | None = None,
) -> Answer:
    """One request of a command.

    Raises:
        Failure: 69 when the edge does not answer, 75 when it asks to repeat, 1 when it refuses; the refusal says why.
    """

    async def once() -> Answer:
        async with Edge(url) as edge:
            return await edge.call(method, path, body=body, key=key, query=query)

    try:
        answer = asyncio.run(once())
    except Unreachable as error:
        raise Failure(
            f"the edge does not answer ({error})",
            then="start one with `orderflow up`, or name another with --url or ORDERFLOW_URL",
            code=UNAVAILABLE,
        ) from None
    if answer.status >= 400:
        raise refusal(answer)
    return answer


def refusal(answer: Answer) -> Failure:
    """What the edge said no to: the reason, every wrong field, every shortage."""
    body = answer.body
    said = f"{answer.code or 'HTTP'} ({answer.status})"
    if body.get("detail"):
        said += f": {body['detail']}"
    wrong = [said]
    for fault in body.get("errors") or ():
        place = fault.get("pointer") or fault.get("parameter") or fault.get("header") or "body"
        wrong.append(f"{place}: {fault.get('detail', fault.get('code', ''))}")
    for shortage in body.get("shortages") or ():
        wrong.append(f"{shortage['sku']}: {shortage['requested']} asked for, {shortage['available']} available")
    if answer.status == 503:
        return Failure(wrong, then="the same command may be repeated in a moment", code=UNDECIDED, document=body)
    return Failure(wrong, code=NO, document=body)


def outcome_code(answer: Answer) -> int:
    """The exit code of a command that was not refused: it has no outcome yet where the owner is still at it, or the buyer has to act."""
    return UNDECIDED if answer.status == 202 or answer.body.get("action_url") else 0
