#!/bin/sh
# Builds the C++ core with AddressSanitizer and UBSan beside the installed one, and runs its tests on it.
# usage: csrc/sanitize.sh [pytest arguments; all tests of the core by default]
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
place=build/sanitized
flags="-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined -D_GLIBCXX_ASSERTIONS"
rm -rf "$place"
# The loader must be set up for the sanitizer before Python starts: the runtime is the compiler's own.
CC=gcc CXX=g++ CFLAGS="$flags" CXXFLAGS="$flags" LDFLAGS="-fsanitize=address,undefined" \
    "$python" setup.py -q build --build-base "$place/objects" --build-lib "$place/lib"
# Math-Verify's child process limits its memory, which the sanitizer's shadow memory exceeds; no C++ runs there.
[ $# -gt 0 ] || set -- tests/answers --ignore=tests/answers/test_equivalence.py tests/ops/test_cpu.py tests/engine/test_step.py
LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so)" \
    ASAN_OPTIONS=detect_leaks=0 PYTHONPATH="$place/lib" OMP_NUM_THREADS=1 \
    "$python" -P -c '
import sys
import fastsia, pytest
from fastsia import _C
assert "sanitized" in _C.__file__, _C.__file__
print("testing", _C.__file__)
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]]))' "$@"
