from collections.abc import Callable
from typing import Any

from orderflow.schemas.plain import Layout

def encoder(layout: Layout, otherwise: Callable[..., bytes]) -> Callable[..., bytes]: ...
def decoder(layout: Layout, otherwise: Callable[[bytes], Any]) -> Callable[[bytes], Any]: ...
