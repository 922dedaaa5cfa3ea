"""The pages of the local provider on which a buyer agrees to a payment, as a bank's 3-D Secure page does."""

from html import escape
from string import Template
from typing import Any

from aiohttp import web

PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>$title</title>
<style>body{font:1.1rem system-ui;max-width:26rem;margin:4rem auto;padding:0 1rem}button{font:inherit;padding:.6rem 1.2rem;margin:.5rem .5rem 0 0}
</style></head><body><h1>$title</h1>$content</body></html>
""")
FORM = Template("""<p>Order <b>$payment</b>: $amount minor units of $currency.</p>
<form method="post" action="/pay/$reference/agree"><button>Agree</button></form>
<form method="post" action="/pay/$reference/refuse"><button>Refuse</button></form>
<p>This is the local provider of orderflow: no money exists here.</p>""")
HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'", "Cache-Control": "no-store"}


def asked(authorization: dict[str, Any] | None) -> web.Response:
    """The page that asks, or says that there is nothing to be asked any more."""
    if authorization is None:
        return _page("There is no such payment", "<p>Look at the link again.</p>", 404)
    if authorization["outcome"] != "requires_action":
        return decided(authorization)
    shown = {"payment": "payment_ref", "amount": "amount_minor", "currency": "currency", "reference": "provider_ref"}
    return _page("Do you agree to this payment?", FORM.substitute({name: escape(str(authorization[of])) for name, of in shown.items()}))


def decided(authorization: dict[str, Any]) -> web.Response:
    """The page that says what became of it."""
    return _page(f"The payment is {escape(authorization['outcome'])}", "<p>You may go back to the shop.</p>")


def _page(title: str, content: str, status: int = 200) -> web.Response:
    text = PAGE.substitute(title=title, content=content)
    return web.Response(text=text, content_type="text/html", status=status, headers=HEADERS)
