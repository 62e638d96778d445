#!/usr/bin/env bash
# Everything that wants a GPU, for someone who has one for a while: the extension, the GPU tests, the kernels, the suite.
#
#     OUT=results benchmarks/gpu/run.sh [tests|suite|all] [options of python -m benchmarks.gpu]
#
# Works without make, without a network and without .venv: with the python3 that has torch and transformers, or $PYTHON.
# Run it again to go on: rows that $OUT holds are not measured again. TESTS_S and BUDGET_S bound the two parts of one call
# (300 and 540 s): where a call may take 10 minutes, make one for the tests and as many as there is time for the suite.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PYTHON=${PYTHON:-python3}
OUT=${OUT:-benchmarks/results}
BUDGET_S=${BUDGET_S:-540}
PART=${1:-all}
[ $# -gt 0 ] && shift
mkdir -p "$OUT"

# An extension that was built for another Python, or from other sources, is as good as none.
"$PYTHON" setup.py --quiet build_ext --inplace || "$PYTHON" -c 'import fastsia._C' || exit 1

if [ "$PART" = tests ] || [ "$PART" = all ]; then
    timeout "${TESTS_S:-300}" "$PYTHON" -m pytest -q -m gpu -p no:cacheprovider \
        --continue-on-collection-errors tests 2>&1 | tee "$OUT/tests.log" | tail -n 15
fi
if [ "$PART" = suite ] || [ "$PART" = all ]; then
    "$PYTHON" -m benchmarks.gpu --device cuda --output "$OUT/gpu.jsonl" --budget_s "$BUDGET_S" "$@"
    "$PYTHON" -m benchmarks.gpu.report "$OUT/gpu.jsonl" --figures "$OUT" | tee "$OUT/gpu.md"
    cp -r benchmarks/.work/gpu/logs "$OUT/" 2>/dev/null || true
fi
