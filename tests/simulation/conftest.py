"""Makes tests/simulation importable as `simulation`, the way cli/simulate.py does."""

import sys
from pathlib import Path

_TESTS = str(Path(__file__).resolve().parent.parent)
if _TESTS not in sys.path:
    sys.path.append(_TESTS)
