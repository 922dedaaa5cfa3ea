"""The one thing pyproject.toml cannot say: the codec's extension is compiled where it can be, and its absence is no failure.

Everything runs without it (schemas/emit.py). ORDERFLOW_BUILD_CODEC=required fails the installation instead.
"""

import os
import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

REQUIRED = os.environ.get("ORDERFLOW_BUILD_CODEC") == "required"


class OptionalBuild(build_ext):
    """Goes on whatever is missing: Extension(optional=True) alone knows some of the errors only."""

    def initialize_options(self) -> None:
        super().initialize_options()
        self.cython_c_in_temp = True

    def build_extension(self, ext: Extension) -> None:
        try:
            super().build_extension(ext)
        except Exception as error:
            if REQUIRED:
                raise
            print(f"{ext.name} is not compiled ({error}); pure Python is used", file=sys.stderr)


setup(
    ext_modules=[Extension("orderflow.schemas._codec", ["schemas/_codec.pyx"], optional=not REQUIRED)],
    cmdclass={"build_ext": OptionalBuild},
)
