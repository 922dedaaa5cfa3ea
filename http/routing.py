"""What a route is: a value that says everything about it, so that the application and its OpenAPI document are made from the same table."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web
from msgspec import Struct
from pydantic import BaseModel

from orderflow.http.bodies import ID_PATTERN
from orderflow.http.calls import Call, Parts


class Route(Struct, frozen=True):
    """`answers` maps every success status to the view it carries (None: no JSON of ours), `problems` lists the refusals to expect."""

    method: str
    path: str
    handler: Callable[[Call], Awaitable[web.StreamResponse]]
    summary: str
    tag: str
    answers: Mapping[int, type[BaseModel] | None]
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    problems: tuple[int, ...] = ()
    id_pattern: str = ID_PATTERN

    @property
    def template(self) -> str:
        """Method and path template: what metrics, logs and idempotency know a route by."""
        return f"{self.method} {self.path}"

    def bind(self, parts: Parts) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """The aiohttp handler of this route."""

        async def handle(request: web.Request) -> Any:
            return await self.handler(Call(request, parts, self.template, self.id_pattern))

        return handle
