"""Errors as RFC 9457 problem details: one shape for every refusal, whoever refuses.

`code` is the reason as the domain names it and decides the status (contracts.md 5, kept in the catalogue); `errors` lists every
wrong part of the request: a body field by JSON Pointer (RFC 6901), a parameter or a header by name.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import orjson
from aiohttp import web

from orderflow.schemas import catalog

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:orderflow:problem:"


class Fault(TypedDict, total=False):
    """One wrong part of a request; one of pointer, parameter, header says which."""

    pointer: str
    parameter: str
    header: str
    code: str
    detail: str


class Problem(Exception):
    """A request that ends here. Raised anywhere on its way, answered by the middleware; without `status` the catalogue decides."""

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        status: int | None = None,
        faults: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail
        self.status = catalog.http_code(code) if status is None else status
        self.faults = list(faults)
        self.headers = dict(headers or {})
        self.members = dict(members or {})

    def document(self, request_id: str = "") -> dict[str, Any]:
        """The JSON members, the standard ones first; members of its own follow and never replace those."""
        document: dict[str, Any] = {
            "type": TYPE_PREFIX + self.code.lower().replace("_", "-"),
            "title": self.code.replace("_", " ").capitalize(),
            "status": self.status,
            "code": self.code,
        }
        if self.detail:
            document["detail"] = self.detail
        if self.faults:
            document["errors"] = self.faults
        document |= {name: value for name, value in self.members.items() if name not in document}
        if request_id:
            document["request_id"] = request_id
        return document

    def response(self, request_id: str = "") -> web.Response:
        body = orjson.dumps(self.document(request_id))
        return web.Response(status=self.status, body=body, content_type=MEDIA_TYPE, headers=self.headers)


def later(code: str, detail: str, retry_after_s: int) -> Problem:
    """503 with Retry-After: nothing is wrong with the request, the same one may succeed soon."""
    return Problem(code, detail, status=503, headers={"Retry-After": str(retry_after_s)})
