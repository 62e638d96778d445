"""Builds the optional C++ core, fastsia._C. Everything else about the package stands in pyproject.toml."""

import os
import sys
from glob import glob

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import setup

threads = [] if sys.platform == "darwin" else ["-pthread"]
core = Pybind11Extension(
    "fastsia._C",
    sorted(glob("csrc/*.cc")),
    include_dirs=["csrc", "fastsia/answers"],
    depends=[*sorted(glob("csrc/*.h")), "fastsia/answers/tables.txt"],
    cxx_std=17,
    extra_compile_args=["-O3", "-Wall", "-Wextra", *threads],
    extra_link_args=threads,
    # Without a compiler the package installs and runs on answers/reference.py. The Makefile requires the core where
    # there is a compiler: an error in the sources must not end as skipped tests.
    optional=not os.environ.get("FASTSIA_REQUIRE_CORE"),
)

ParallelCompile().install()  # a compiler per core
setup(ext_modules=[core], cmdclass={"build_ext": build_ext})
