"""What callers may send: one model per request body, strict in types, closed to unknown fields, with every wrong field named.

The text is read as JSON whatever its content type says (curl -d sends form type). What the body alone shows is refused here under its
own reason and leaves no record; the turn checks it again, because commands also come by Kafka (domain.md 2 "Order of checks").
"""

import json
from collections import Counter
from datetime import date, datetime
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic.config import JsonDict
from pydantic_core import ErrorDetails, PydanticCustomError

from orderflow.http.limits import Limits, is_safe
from orderflow.http.problems import Fault, Problem
from orderflow.streams.domain.zones import is_zone

FAULTS_MAX = 100
DEPTH_MAX = 8
FIRST = ("SCHEMA_INVALID", "INPUT_UNSAFE", "EMPTY_LINES", "QUANTITY_INVALID", "LINE_LIMIT", "QUANTITY_LIMIT")
"""Where a body is wrong in several ways the first of these is its reason."""

Model = TypeVar("Model", bound=BaseModel)


def _limits(info: ValidationInfo) -> Limits:
    return info.context if isinstance(info.context, Limits) else Limits()


def _whole(value: Any, least: int, most: int) -> Any:
    if isinstance(value, float) or (type(value) is int and value < least):
        raise PydanticCustomError("QUANTITY_INVALID", "must be a whole number of at least {least}", {"least": least})
    if type(value) is int and value > most:
        raise PydanticCustomError("QUANTITY_LIMIT", "must be at most {most}", {"most": most})
    return value


def _quantity(value: Any, info: ValidationInfo) -> Any:
    return _whole(value, 1, _limits(info).quantity_per_line_max)


def _received(value: Any, info: ValidationInfo) -> Any:
    return _whole(value, 1, _limits(info).receipt_quantity_max)


def _delta(value: Any, info: ValidationInfo) -> Any:
    most = _limits(info).receipt_quantity_max
    if type(value) is int and value == 0:
        raise PydanticCustomError("QUANTITY_INVALID", "must not be zero")
    return _whole(value, -most, most)


def _some(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, list):
        most = _limits(info).lines_max
        if not value:
            raise PydanticCustomError("EMPTY_LINES", "must have at least one line")
        if len(value) > most:
            raise PydanticCustomError("LINE_LIMIT", "must have at most {most} lines", {"most": most})
    return value


def _zone(value: str) -> str:
    if not is_zone(value):
        raise PydanticCustomError("time_zone", "must be the name of a time zone, such as Asia/Ho_Chi_Minh")
    return value


def _instant(value: Any) -> Any:
    if isinstance(value, str):
        try:
            parsed = datetime.fromisoformat(value)
        except ValueError:
            parsed = None
        if parsed is not None and parsed.tzinfo is not None and "T" in value.upper():
            return parsed
    raise PydanticCustomError("instant", "must be a date and time with its offset, such as 2026-01-23T10:00:00Z")


def _day(value: Any) -> Any:
    try:
        return date.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise PydanticCustomError("day", "must be a date, such as 2026-01-23") from error


_LIMITS = Limits()
ID_PATTERN = r"^[A-Za-z0-9._-]{1,64}$"
CHILD_PATTERN = r"^[A-Za-z0-9._-]{1,64}(~[A-Z][0-9]{1,6})?$"
Id = Annotated[str, Field(pattern=ID_PATTERN)]
ChildId = Annotated[str, Field(pattern=CHILD_PATTERN)]
Word = Annotated[str, Field(pattern=r"^[a-z][a-z_]{0,63}$")]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
Zone = Annotated[str, Field(max_length=64), AfterValidator(_zone)]
Instant = Annotated[datetime, BeforeValidator(_instant), WithJsonSchema({"type": "string", "format": "date-time"})]
Day = Annotated[date, BeforeValidator(_day), WithJsonSchema({"type": "string", "format": "date"})]
Quantity = Annotated[int, BeforeValidator(_quantity), Field(json_schema_extra={"minimum": 1, "maximum": _LIMITS.quantity_per_line_max})]
Received = Annotated[int, BeforeValidator(_received), Field(json_schema_extra={"minimum": 1, "maximum": _LIMITS.receipt_quantity_max})]
Delta = Annotated[int, BeforeValidator(_delta), Field(json_schema_extra={"not": {"const": 0}})]
QTY = AliasChoices("qty", "quantity")
ITEMS = AliasChoices("items", "lines")
LOCATION = AliasChoices("location_id", "location")


class Body(BaseModel):
    """Closed and strict; values never change once read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class Money(Body):
    amount_minor: Annotated[int, Field(ge=0, le=(1 << 53) - 1)]
    currency: Currency


class ShipTo(Body):
    """Where to, without naming anybody: the address itself stays with the customer."""

    subject_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,64}$")] = ""
    address_version: Annotated[int, Field(ge=0, le=1 << 31)] = 0
    country: Annotated[str, Field(pattern=r"^([A-Z]{2})?$")] = ""
    region: Annotated[str, Field(max_length=64)] = ""
    postal_code: Annotated[str, Field(pattern=r"^[A-Za-z0-9 -]{0,16}$")] = ""


class Line(Body):
    sku: Id
    quantity: Quantity = Field(validation_alias=QTY, description="Also spelled `quantity`.")
    line_id: Id | None = None
    location_id: Id | None = None
    unit_price: Money | None = None
    discount: Money | None = None
    tax: Money | None = None


def _distinct(lines: list[Line], info: ValidationInfo) -> list[Line]:
    most = _limits(info).quantity_per_sku_max
    demand: Counter[str] = Counter()
    for line in lines:
        demand[line.sku] += line.quantity
    for sku, quantity in demand.items():
        if quantity > most:
            raise PydanticCustomError(
                "QUANTITY_LIMIT", "asks {quantity} of {sku}; at most {most} per order", {"quantity": quantity, "sku": sku, "most": most}
            )
    named = [line.line_id for line in lines if line.line_id]
    if len(set(named)) != len(named):
        raise PydanticCustomError("line_id", "line_id must differ from line to line")
    return lines


_LINES: JsonDict = {"minItems": 1, "maxItems": _LIMITS.lines_max}


Token = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")]


class PlaceOrderBody(Body):
    order_id: Id | None = None
    lines: Annotated[list[Line], BeforeValidator(_some), AfterValidator(_distinct)] = Field(
        validation_alias=ITEMS, json_schema_extra=_LINES, description="Also spelled `lines`."
    )
    channel: Id | None = None
    customer_ref: Id | None = None
    external_ref: Id | None = None
    currency: Currency | None = None
    time_zone: Zone | None = None
    partial_policy: Literal["reject", "ship_available", "backorder", "ask"] | None = None
    must_accept: bool = False
    ship_to: ShipTo | None = None
    attributes: Annotated[dict[Id, Annotated[str, Field(max_length=256)]], Field(max_length=20)] = {}
    token_ref: Token | None = Field(
        None, description="The buyer's payment method as the channel's provider names it, such as a Stripe PaymentMethod."
    )
    payment_method: Literal["card", "wallet", "installment", "bank_transfer"] | None = Field(
        None, description="What it is paid in advance with, of what its channel allows; each has a window of its own."
    )


BULK_MAX = 500


class PlaceOrdersBody(Body):
    """Each order is read by itself, so that a wrong one is no reason to refuse its neighbours."""

    orders: Annotated[
        list[Any],
        Field(min_length=1, max_length=BULK_MAX),
        WithJsonSchema({"type": "array", "minItems": 1, "maxItems": BULK_MAX, "items": {"$ref": "#/components/schemas/PlaceOrderBody"}}),
    ]


class LineQuantity(Body):
    line_id: Id
    quantity: Quantity = Field(validation_alias=QTY, description="Also spelled `quantity`.")


Some = Annotated[list[LineQuantity], Field(max_length=_LIMITS.lines_max)]


class CancelBody(Body):
    """Without lines the whole order."""

    reason: Annotated[str, Field(max_length=200)] = ""
    lines: Some = Field([], validation_alias=ITEMS, description="Also spelled `lines`.")


class EditBody(Body):
    """The quantities that lines are to have; a line that is not named stays as it is."""

    reason: Annotated[str, Field(max_length=200)] = ""
    lines: Some = Field(..., validation_alias=ITEMS, description="Also spelled `lines`.")


class ShortageBody(Body):
    """Take what there is, or nothing."""

    choice: Literal["ship_available", "cancel"]


class StatusBody(Body):
    """Without lines the full quantities. `seq` is the caller's own counter, if it keeps one."""

    status: Word
    seq: Annotated[int, Field(ge=0, lt=1 << 63)] | None = None
    lines: Some = Field([], validation_alias=ITEMS, description="Also spelled `lines`.")


class DeliveryBody(Body):
    """What a carrier would say. Without `delivered_at` it is now."""

    delivered_at: Instant | None = None
    shipment_id: ChildId | None = None
    proof_ref: Id | None = None


class UndeliveredBody(Body):
    """What a carrier would say. Without `failed_at` it is now."""

    reason: Literal["returned_to_sender", "lost", "refused"]
    failed_at: Instant | None = None
    shipment_id: ChildId | None = None


class ReceiptBody(Body):
    sku: Id
    quantity: Received = Field(validation_alias=QTY, description="Also spelled `quantity`.")
    location_id: Id | None = Field(None, validation_alias=LOCATION, description="Also spelled `location`.")
    lot: Id | None = None
    expires_on: Day | None = None
    received_at: Instant | None = None
    disposition: Literal["available", "damaged", "quality_control"] = "available"
    expected_ref: Id | None = None
    reference: Id | None = None
    unit_cost: Money | None = None


class AdjustBody(Body):
    """`delta` units more or fewer on hand; `expected` refuses the change when another count was there before."""

    sku: Id
    delta: Delta
    reason: Word
    location_id: Id | None = Field(None, validation_alias=LOCATION, description="Also spelled `location`.")
    lot: Id | None = None
    expected: Annotated[int, Field(ge=0, lt=1 << 63)] | None = None
    reference: Id | None = None
    counted_at: Instant | None = None


def parse(text: bytes) -> dict[str, Any]:
    """The JSON object in a body; nothing at all reads as an empty one.

    Raises:
        Problem: not UTF-8, not JSON, NaN or Infinity, a name twice in one object, nested too deep, not an object, or text that is
            not printable NFC.
    """
    if not text.strip():
        return {}
    try:
        document = json.loads(text.decode("utf-8"), object_pairs_hook=_once, parse_constant=_not_json)
    except (ValueError, RecursionError) as error:
        detail = "nested too deep" if isinstance(error, RecursionError) else f"not valid JSON: {error}"
        raise refused([{"pointer": "", "code": "SCHEMA_INVALID", "detail": detail[:300]}]) from None
    if not isinstance(document, dict):
        raise refused([{"pointer": "", "code": "SCHEMA_INVALID", "detail": "must be a JSON object"}])
    faults = _unsafe(document)
    if faults:
        raise refused(faults)
    return document


def read(model: type[Model], document: dict[str, Any], limits: Limits) -> Model:
    """The body as its model.

    Raises:
        Problem: with every wrong field as a JSON Pointer (at most FAULTS_MAX of them).
    """
    try:
        return model.model_validate(document, context=limits)
    except ValidationError as error:
        raise refused([_fault(one) for one in error.errors(include_url=False, include_input=False)]) from None


def refused(faults: list[Fault]) -> Problem:
    """The problem that a wrong body ends in; its code is the first reason of FIRST among the faults'."""
    code = min((fault["code"] for fault in faults), key=FIRST.index)
    return Problem(code, faults=faults[:FAULTS_MAX])


def pointer(location: tuple[int | str, ...]) -> str:
    """A JSON Pointer (RFC 6901) to a place in the body."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location if part != "[key]")


def _fault(error: ErrorDetails) -> Fault:
    code = error["type"] if error["type"] in FIRST else "SCHEMA_INVALID"
    detail = "is not a field of this request" if error["type"] == "extra_forbidden" else error["msg"]
    return {"pointer": pointer(error["loc"])[:300], "code": code, "detail": detail[:300]}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the name {twice[:64]!r} appears twice in one object")
    return found


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _unsafe(document: dict[str, Any]) -> list[Fault]:
    """Where the document holds text that is not safe, or goes too deep."""
    faults: list[Fault] = []
    pending: list[tuple[Any, str, int]] = [(document, "", 0)]
    while pending:
        value, where, depth = pending.pop()
        if isinstance(value, str) and not is_safe(value):
            faults.append({"pointer": where, "code": "INPUT_UNSAFE", "detail": "must be printable text in Unicode form NFC"})
        elif isinstance(value, list | dict) and depth == DEPTH_MAX:
            faults.append({"pointer": where, "code": "SCHEMA_INVALID", "detail": "is nested too deep"})
        elif isinstance(value, list):
            pending.extend((member, f"{where}/{index}", depth + 1) for index, member in enumerate(value))
        elif isinstance(value, dict):
            for name, member in value.items():
                if is_safe(name):
                    pending.append((member, where + pointer((name[:64],)), depth + 1))
                else:
                    faults.append({"pointer": where, "code": "INPUT_UNSAFE", "detail": "has a field whose name is not printable NFC text"})
        if len(faults) == FAULTS_MAX:
            break
    return faults
