"""The adapter for the provider of the box (provider.py): JSON over HTTP, the key in a header."""

from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout

from orderflow.connectors.payments.port import ActionRequired, Operation, Outcome, Unanswered

AT_BUYER = "requires_action"
NAME = "local"
"""What requests for this provider are addressed to."""
URL = "http://127.0.0.1:8090"


class LocalProvider:
    """A client of the local provider. `timeout_s` is the whole deadline of a call."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url, self._timeout_s = url.rstrip("/"), timeout_s
        self._session: ClientSession | None = None

    async def start(self) -> None:
        self._session = ClientSession(timeout=ClientTimeout(total=self._timeout_s))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def perform(self, operation: Operation) -> Outcome:
        assert self._session is not None, "start() first"
        body = {
            "operation": operation.operation,
            "amount_minor": operation.amount_minor,
            "currency": operation.currency,
            "payment_ref": operation.payment_ref,
            "provider_ref": "" if operation.operation == "authorize" else operation.provider_ref,
        }
        try:
            headers = {"Idempotency-Key": operation.key}
            async with self._session.post(f"{self._url}/v1/operations", json=body, headers=headers) as answer:
                if answer.status != 200:
                    raise Unanswered(f"the provider answers {answer.status}")
                return _outcome(await answer.json())
        except (ClientError, TimeoutError, OSError) as error:
            raise Unanswered(f"{type(error).__name__}: {error}") from None


def _outcome(said: Any) -> Outcome:
    try:
        if said["outcome"] == AT_BUYER:
            raise ActionRequired(said["action_url"], said["provider_ref"])
        return Outcome(
            said["outcome"] == "succeeded", said["provider_ref"], said["amount_minor"], said["currency"], said["valid_until"], said["code"]
        )
    except (KeyError, TypeError):
        raise Unanswered("the provider's answer cannot be read") from None
