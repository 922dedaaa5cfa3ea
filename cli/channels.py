"""`orderflow channels`: what selling through a channel means, set and read directly on Kafka."""

import difflib
import json
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orderflow.cli.terminal import UNDECIDED, AsJson, Failure, group, show
from orderflow.cli.worker import SCHEMA_CACHE, Bootstrap, Registry

if TYPE_CHECKING:
    from orderflow.streams.domain.channel import ChannelPolicy
    from orderflow.streams.records import Records
    from orderflow.streams.settings import WorkerSettings

WRONG_USAGE = 2

app = group("Set and read channel policies.")


@app.command("apply")
def apply_channels(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="JSON or TOML: a table of policy values per channel.")] = None,
    box: Annotated[bool, typer.Option("--box", help="The channel `box` of `orderflow up`, instead of a file.")] = False,
    wait: Annotated[float, typer.Option("--wait", min=0, help="Seconds for a worker to decide; 0 does not wait.")] = 15.0,
    bootstrap: Bootstrap = None,
    registry: Registry = None,
    as_json: AsJson = False,
) -> None:
    """Set the policies of channels; what is not named takes its default. What is set already changes nothing.

    \b
    Example:
      echo '{"shop": {"payment_terms": "invoice", "currency": "VND"}}' > channels.json
      orderflow channels apply channels.json
      orderflow channels apply --box --wait 0
    \b
    Exit codes:
      0   all channels have their policy
      1   the file is wrong: every fault is named, nothing was sent
      69  broker or registry do not answer
      75  sent, but no worker has accepted it in time: it refused, or none runs
      78  topics or schemas are missing
    """
    from orderflow.cli import contracts
    from orderflow.streams.domain.channel import BOX

    if (file is None) == (not box):
        raise Failure("name a FILE or --box, one of them", then="`orderflow channels apply --help` has an example", code=WRONG_USAGE)
    policies = {"box": BOX} if file is None else read_file(file)
    settings, records = _connect(bootstrap, registry)
    contracts.send_channels(settings.bootstrap, records, policies)
    left = contracts.await_channels(settings.bootstrap, records, policies, wait) if wait else []
    show({"applied": [name for name in policies if name not in left], "open": left}, as_json, _applied_lines)
    if left:
        raise typer.Exit(UNDECIDED)


@app.command("list")
def list_channels(bootstrap: Bootstrap = None, registry: Registry = None, as_json: AsJson = False) -> None:
    """List every channel with its policy.

    \b
    Example:
      orderflow channels list
    \b
    Exit codes:
      0   listed
      69  broker or registry do not answer
      78  topics or schemas are missing
    """
    import msgspec

    from orderflow.cli import contracts

    settings, records = _connect(bootstrap, registry)
    found = contracts.read_channels(settings.bootstrap, records)
    show([msgspec.to_builtins(found[key]) for key in sorted(found)], as_json, _list_lines)


def read_file(file: Path) -> dict[str, "ChannelPolicy"]:
    """The policies of a file. Raises Failure naming everything that is wrong with it."""
    try:
        text = file.read_text()
        document = tomllib.loads(text) if file.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:
        raise Failure(f"{file}: {error}", then="write JSON, or TOML in a file that ends in .toml") from None
    if not isinstance(document, dict) or not document:
        raise Failure(f"{file} names no channel", then='write for example {"shop": {"payment_terms": "invoice"}}')
    policies: dict[str, ChannelPolicy] = {}
    faults: list[str] = []
    for name, values in document.items():
        policy, wrong = _policy(name, values)
        faults += wrong
        if policy is not None:
            policies[name] = policy
    if faults:
        raise Failure([f"{file}: {fault}" for fault in faults], then="nothing was sent")
    return policies


def _policy(name: str, values: Any) -> tuple["ChannelPolicy | None", list[str]]:
    import msgspec

    from orderflow.streams.domain.channel import ChannelPolicy
    from orderflow.streams.domain.ids import is_id

    if not is_id(name):
        return None, [f"{name!r} is no channel name: letters, digits, dot, dash, underscore, at most 64"]
    if not isinstance(values, Mapping):
        return None, [f"{name}: must be a table of values"]
    known = ChannelPolicy.__struct_fields__
    wrong = []
    for field in values:
        if field not in known:
            near = difflib.get_close_matches(str(field), known, 1)
            wrong.append(f"{name}.{field} is no value of a policy" + (f": did you mean {near[0]}?" if near else ""))
    try:
        return msgspec.convert(dict(values), ChannelPolicy), wrong
    except msgspec.ValidationError as error:
        return None, [*wrong, f"{name}: {error}"]


def _connect(bootstrap: str | None, registry: str | None) -> "tuple[WorkerSettings, Records]":
    from orderflow.cli import contracts, environment
    from orderflow.schemas.catalog import Catalog
    from orderflow.streams.settings import WorkerSettings

    settings = environment.load(WorkerSettings, bootstrap=bootstrap, registry=registry)
    contracts.connect(settings.bootstrap)
    catalog = Catalog(settings.prefix, settings.partitions)
    with tempfile.TemporaryDirectory(prefix="orderflow-") as directory:  # one command keeps no ids: the next may use another registry
        return settings, contracts.load_records(settings.registry, catalog, Path(directory) / SCHEMA_CACHE)


def _applied_lines(result: dict[str, Any]) -> Iterator[str]:
    for name in result["applied"]:
        yield f"{name}  set"
    for name in result["open"]:
        yield f"{name}  sent, not accepted: is a worker running? its answer is on the catalog's events topic"


def _list_lines(channels: list[dict[str, Any]]) -> Iterator[str]:
    if not channels:
        yield "no channel has a policy: run `orderflow channels apply FILE`"
        return
    for channel in channels:
        yield f"{channel['key']} (version {channel['version']})"
        for name, value in channel["policy"].items():
            yield f"  {name} = {json.dumps(value)}"
