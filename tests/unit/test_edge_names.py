"""Names the edge computes: the partition of a key, ids that make a repeat meet its first answer, fingerprints, request ids."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from orderflow.http import bodies, idempotency
from orderflow.http.calls import request_id_in, trace_in, version_in
from orderflow.http.limits import Limits
from orderflow.http.problems import Problem
from orderflow.schemas.partitioner import murmur2, partition_of

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def headers(*pairs: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(pairs))


@pytest.mark.parametrize(
    ("key", "expected"),
    [  # org.apache.kafka.common.utils.UtilsTest.testMurmur2
        ("21", -973932308),
        ("foobar", -790332482),
        ("a-little-bit-long-string", -985981536),
        ("a-little-bit-longer-string", -1486304829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        ("abc", 479470107),
    ],
)
def test_murmur2_equals_kafkas(key: str, expected: int) -> None:
    assert murmur2(key.encode()) == expected


@given(st.binary(max_size=100), st.integers(1, 64))
def test_a_partition_is_always_one_of_those_there_are(key: bytes, partitions: int) -> None:
    assert 0 <= partition_of(key, partitions) < partitions


def test_a_derived_id_never_changes() -> None:
    """It names commands and orders that exist: another derivation would let every retry order again."""
    assert idempotency.derived_id("main", "demo", "POST /api/v1/orders", "order-1") == "TDGAMDTE75C8RDRAWKXANMXDT7"


@pytest.mark.parametrize("changed", [0, 1, 2, 3])
def test_a_derived_id_depends_on_every_part(changed: int) -> None:
    parts = ["main", "demo", "POST /api/v1/orders", "order-1"]
    other = [part + "x" if index == changed else part for index, part in enumerate(parts)]
    assert idempotency.derived_id(*parts) != idempotency.derived_id(*other)


def test_ids_have_26_crockford_characters_with_a_key_and_without() -> None:
    for name in (idempotency.derived_id("main", "demo", "POST /x", "k"), idempotency.fresh_id()):
        assert len(name) == 26
        assert set(name) <= set("0123456789ABCDEFGHJKMNPQRSTVWXYZ")
    assert idempotency.fresh_id() != idempotency.fresh_id()


@pytest.mark.parametrize(("given_value", "key"), [("abc", "abc"), ('"abc"', "abc"), ("a-b_c/1", "a-b_c/1"), ("x" * 255, "x" * 255)])
def test_a_key_is_read_bare_and_quoted(given_value: str, key: str) -> None:
    assert idempotency.key_in(headers(("idempotency-key", given_value))) == key


def test_no_key_is_none() -> None:
    assert idempotency.key_in(headers()) is None


@pytest.mark.parametrize("pairs", [[""], [" "], ["a b"], ["x" * 256], ['"'], ['""'], ['a"b'], ["é"], ["a", "b"]])
def test_a_malformed_key_is_refused_by_name(pairs: list[str]) -> None:
    with pytest.raises(Problem) as caught:
        idempotency.key_in(headers(*(("Idempotency-Key", value) for value in pairs)))
    assert caught.value.status == 400
    assert caught.value.faults[0]["header"] == "Idempotency-Key"


def fingerprint(text: bytes, target: str = "") -> str:
    return idempotency.fingerprint(bodies.read(bodies.PlaceOrderBody, bodies.parse(text), Limits()), target)


@pytest.mark.parametrize(
    "same",
    [
        b'{"lines":[{"quantity":1,"sku":"A"}]}',
        b'{"items":[{"quantity":1,"sku":"A"}]}',
        b'{ "lines" : [ {"sku":"A", "qty":1} ], "must_accept": false }',
        b'{"attributes":{},"channel":null,"items":[{"sku":"A","qty":1,"line_id":null}]}',
    ],
)
def test_one_wish_in_two_spellings_has_one_fingerprint(same: bytes) -> None:
    assert fingerprint(same) == fingerprint(b'{"items":[{"sku":"A","qty":1}]}')


@pytest.mark.parametrize(
    "other",
    [
        b'{"items":[{"sku":"A","qty":2}]}',
        b'{"items":[{"sku":"a","qty":1}]}',
        b'{"items":[{"sku":"A","qty":1}],"must_accept":true}',
        b'{"items":[{"sku":"A","qty":1}],"channel":"box"}',
        b'{"items":[{"sku":"A","qty":1},{"sku":"A","qty":1}]}',
    ],
)
def test_another_wish_has_another_fingerprint(other: bytes) -> None:
    assert fingerprint(other) != fingerprint(b'{"items":[{"sku":"A","qty":1}]}')


def test_the_resource_of_the_path_is_part_of_the_wish() -> None:
    text = b'{"items":[{"sku":"A","qty":1}]}'
    assert fingerprint(text, "order-1") != fingerprint(text, "order-2")


def test_a_request_id_is_taken_when_well_formed_else_the_trace_else_minted() -> None:
    assert request_id_in(headers(("X-Request-Id", "req-1"), ("traceparent", TRACE))) == "req-1"
    assert request_id_in(headers(("X-Request-Id", "a b"), ("traceparent", TRACE))) == "0af7651916cd43dd8448eb211c80319c"
    assert len(request_id_in(headers(("X-Request-Id", "x" * 65)))) == 26


@pytest.mark.parametrize(
    "malformed",
    [
        "",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
    ],
)
def test_a_malformed_trace_is_dropped(malformed: str) -> None:
    assert trace_in(headers(("traceparent", malformed), ("tracestate", "a=1"))) == ()


def test_a_trace_goes_with_its_state() -> None:
    assert trace_in(headers(("traceparent", TRACE))) == (("traceparent", TRACE.encode()),)
    both = trace_in(headers(("traceparent", TRACE), ("tracestate", "a=1")))
    assert both == (("traceparent", TRACE.encode()), ("tracestate", b"a=1"))


def test_an_expected_version_is_an_etag() -> None:
    assert version_in(headers(("If-Match", '"7"'))) == 7
    assert version_in(headers(("If-Match", "*"))) is None
    assert version_in(headers()) is None
    with pytest.raises(Problem):
        version_in(headers(("If-Match", "7")))
