"""Who may make a worker write something: a program on its own machine, nobody else."""

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer, make_mocked_request

from orderflow.streams.state import asked_by_a_program_here


class Connection:
    """The transport of a request between two addresses."""

    def __init__(self, own: str, peer: str) -> None:
        self.ends = {"sockname": (own, 6066), "peername": (peer, 41000)}

    def get_extra_info(self, name: str, default: object = None) -> object:
        return self.ends.get(name, default)


@pytest.mark.parametrize(
    ("own", "peer", "here"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("::1", "::1", True),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1", True),
        ("10.0.0.7", "10.0.0.7", True),
        ("10.0.0.7", "10.0.0.8", False),
        ("172.17.0.2", "172.17.0.1", False),
        ("2001:db8::7", "2001:db8::8", False),
    ],
)
def test_only_this_machine_asks(own: str, peer: str, here: bool) -> None:
    request = make_mocked_request("POST", "/state/checkpoints/a", transport=Connection(own, peer))
    assert asked_by_a_program_here(request) is here


@pytest.mark.parametrize("header", ["Origin", "Sec-Fetch-Site", "Forwarded", "X-Forwarded-For"])
async def test_a_page_in_a_browser_of_this_machine_does_not_and_nobody_does_through_a_proxy(header: str) -> None:
    async def say(request: web.Request) -> web.Response:
        return web.json_response(asked_by_a_program_here(request))

    app = web.Application()
    app.router.add_post("/", say)
    async with TestServer(app) as server, ClientSession() as browser:
        assert await (await browser.post(server.make_url("/"))).json() is True
        assert await (await browser.post(server.make_url("/"), headers={header: "anything"})).json() is False
