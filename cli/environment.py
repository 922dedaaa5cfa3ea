"""The settings of this machine: every ORDERFLOW_ variable, who reads it, and all that is wrong with them at once.

A variable nobody reads is an error, not a comment: a misspelt one would leave a default in force without a word (slot D54).
"""

import ast
import difflib
import inspect
import os
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from orderflow.cli.terminal import MISCONFIGURED, Failure

if TYPE_CHECKING:
    from pydantic_settings import BaseSettings

    Model = TypeVar("Model", bound=BaseSettings)

PREFIX = "ORDERFLOW_"
OTHERS: Mapping[str, str] = {
    "ORDERFLOW_URL": "base URL of the edge for the commands that go through it",
    "ORDERFLOW_MAVEN_URL": "where the box fetches Kafka and the registry from",
    "ORDERFLOW_CODEC": "which engine codes Avro: compiled, python, or auto, which is compiled where the extension is built",
    "ORDERFLOW_BUILD_CODEC": "while installing: `required` fails when the codec's extension cannot be compiled",
    "ORDERFLOW_RESTARTS": "set by a supervisor: how often it has started this process again; in /metrics as orderflow_restarts_total",
    "ORDERFLOW_FAULT": "tests only: a named point at which the process ends itself",
    "ORDERFLOW_TEST_BOOTSTRAP": "tests only: the Kafka they use",
    "ORDERFLOW_TEST_REGISTRY": "tests only: the registry they use",
}
"""Variables that belong to no settings class."""
PLACE = frozenset({"bootstrap", "registry", "prefix", "partitions", "data"})
"""The settings that say where everything is."""
ADVICE = "`orderflow config show` lists every variable with its meaning"


def models() -> dict[str, "type[BaseSettings]"]:
    """The settings classes by the process that reads them."""
    from orderflow.connectors.payments.settings import PaymentSettings
    from orderflow.http.settings import EdgeSettings
    from orderflow.streams.settings import WorkerSettings

    return {"worker": WorkerSettings, "edge": EdgeSettings, "payments": PaymentSettings}


def variable(field: str) -> str:
    return PREFIX + field.upper()


def unknown(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Every variable of ours that nobody reads, with the nearest name that somebody does; and a codec that cannot be had."""
    from orderflow.schemas import codec

    known = {variable(field) for model in models().values() for field in model.model_fields} | set(OTHERS)
    found = []
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, 1)
            found.append(f"{name} is no setting" + (f": did you mean {near[0]}?" if near else ""))
    refused = codec.refusal(environ.get("ORDERFLOW_CODEC") or "auto")
    return [*found, refused] if refused else found


def read(model: "type[Model]", **options: Any) -> "tuple[Model | None, list[str]]":
    """The settings from the environment, `options` that are not None before it, and all that is wrong with them."""
    from pydantic import ValidationError

    try:
        settings = model(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        return None, [_fault(each) for each in error.errors(include_url=False)]
    return settings, list(getattr(settings, "refusals")())  # noqa: B009 - every settings class has it


def place(model: "type[Model]", **options: Any) -> "Model | None":
    """The settings with defaults for those that are wrong: enough to look at the servers. None when it is not known where they are."""
    from pydantic import ValidationError

    given = {name: value for name, value in options.items() if value is not None}
    try:
        return model(**given)
    except ValidationError as error:
        wrong = {str(each["loc"][0]) for each in error.errors(include_url=False)}
    if wrong & PLACE:
        return None
    return model(**{**given, **{name: model.model_fields[name].default for name in wrong}})


def load(model: "type[Model]", **options: Any) -> "Model":
    """The settings, for commands that only need some of them. Raises Failure naming everything that is wrong."""
    from pydantic import ValidationError

    given = {name: value for name, value in options.items() if value is not None}
    try:
        return model(**{**_running(model, given), **given})
    except ValidationError as error:
        raise Failure([_fault(each) for each in error.errors(include_url=False)], then=ADVICE, code=MISCONFIGURED) from None


def _running(model: "type[Model]", given: Mapping[str, Any]) -> dict[str, str]:
    """Kafka and registry of a running `orderflow up`, for a command that was told of no other; and its payment provider."""
    from orderflow.cli import runstate

    if not {"bootstrap", "registry"} <= set(model.model_fields):
        return {}
    try:
        state = runstate.read(data_dir())
    except Failure:
        return {}
    told = {name: given.get(name) or os.environ.get(variable(name)) for name in ("bootstrap", "prefix", "provider_url")}
    found = {} if told["bootstrap"] else {"bootstrap": state.bootstrap, "registry": state.registry}
    is_it = told["bootstrap"] in (None, state.bootstrap) and told["prefix"] in (None, state.prefix)
    provider = next((process.url for process in state.processes if process.name == "provider"), "")
    if "provider_url" in model.model_fields and provider and is_it and not told["provider_url"]:
        found["provider_url"] = provider
    return found


def data_dir() -> Path:
    """Where `orderflow up` keeps its data: XDG_DATA_HOME, else the usual place of a user's data."""
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "orderflow"


def meanings(model: "type[BaseSettings]") -> dict[str, str]:
    """The documentation string under each field, by field."""
    found: dict[str, str] = {}
    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    assert isinstance(body, ast.ClassDef)
    for statement, following in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            found[statement.target.id] = inspect.cleandoc(str(following.value.value)).replace("\n", " ")
    return found


def entries(environ: Mapping[str, str] = os.environ) -> Iterator[dict[str, str]]:
    """Every setting: variable, who reads it, value in force, where that comes from, meaning."""
    readers: dict[str, list[str]] = {}
    for name, model in models().items():
        for field in model.model_fields:
            readers.setdefault(field, []).append(name)
    for field, names in sorted(readers.items()):
        model = models()[names[0]]
        given = variable(field) in environ
        value = environ[variable(field)] if given else model.model_fields[field].default
        yield {
            "variable": variable(field),
            "read_by": ", ".join(names),
            "value": str(value),
            "source": "environment" if given else "default",
            "meaning": meanings(model).get(field, ""),
        }


def other_values(environ: Mapping[str, str] = os.environ) -> Iterator[tuple[str, str, str]]:
    """The variables outside the settings classes: name, value (of the codec: with the engine that runs), source."""
    from orderflow.schemas import codec

    for name in OTHERS:
        value = environ.get(name, "")
        if name == "ORDERFLOW_CODEC":
            value = f"{value or 'auto'} ({codec.ENGINE})"
        yield name, value, "environment" if name in environ else "default"


def _fault(error: Mapping[str, Any]) -> str:
    name = variable(str(error["loc"][0])) if error["loc"] else "the settings"
    return f"{name}={error['input']}: {error['msg'][:1].lower()}{error['msg'][1:]}"
