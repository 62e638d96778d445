#!/usr/bin/env bash
# Everything that wants a GPU, for someone who has one for a while: the extension, the GPU tests, the kernels, the suite.
#
#     OUT=results benchmarks/gpu/run.sh [tests|suite|all] [options of python -m benchmarks.gpu]
#
# Works without make, without a network and without .venv: with the python3 that has torch and transformers, or $PYTHON.
# $OUT gets gpu.jsonl (a line as each row ends), gpu.md, two figures, tests-*.log and logs.tgz.
# Run it again to go on: rows that $OUT/gpu.jsonl holds are not measured again. Where $OUT is empty in every call, keep
# that file and name it in RESULTS (benchmarks/results/gpu.jsonl); $OUT/gpu.jsonl begins as a copy of it.
# TESTS_S and BUDGET_S bound the two parts of one call (270 and 430 s): where a call may take 10 minutes, make one for
# the tests and as many as there is time for the suite.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PYTHON=${PYTHON:-python3}
OUT=${OUT:-benchmarks/results}
RESULTS=${RESULTS:-benchmarks/results/gpu.jsonl}
TESTS_S=${TESTS_S:-270}
PART=${1:-all}
[ $# -gt 0 ] && shift
mkdir -p "$OUT" "$(dirname "$RESULTS")"
[ -e "$OUT/gpu.jsonl" ] || cp "$RESULTS" "$OUT/gpu.jsonl" 2>/dev/null

# The extension is optional, so a failed build exits with 0, and may leave one that was built from other sources.
"$PYTHON" setup.py --quiet build_ext --inplace
core=$("$PYTHON" -c 'import fastsia._C as core; print(core.__file__)') || exit 1
newer=$(find csrc/*.cc csrc/*.h fastsia/answers/tables.txt -newer "$core" | head -n 1)
[ -z "$newer" ] || { echo "$core is older than $newer"; exit 1; }

gpu_tests() { # name, seconds, options: SIGINT lets pytest show what it has and where it is
    local options=(-q -m gpu -p no:cacheprovider -rfE --maxfail=15 --continue-on-collection-errors)
    "$PYTHON" -c 'import xdist' 2>/dev/null && options+=(-n 6)
    "$PYTHON" -c 'import pytest_timeout' 2>/dev/null && options+=(--timeout=120 "--session-timeout=$2")
    timeout -s INT -k 20 "$(($2 + 20))" "$PYTHON" -m pytest "${options[@]}" "${@:3}" 2>&1 |
        tee "$OUT/tests-$1.log" | tail -n 25
}

if [ "$PART" = tests ] || [ "$PART" = all ]; then
    gpu_tests ops "$((TESTS_S / 2))" tests/ops
    gpu_tests rest "$((TESTS_S / 2))" tests --ignore=tests/ops
fi
if [ "$PART" = suite ] || [ "$PART" = all ]; then
    "$PYTHON" -m benchmarks.gpu --device cuda --output "$OUT/gpu.jsonl" --budget_s "${BUDGET_S:-430}" "$@"
    "$PYTHON" -m benchmarks.gpu.report "$OUT/gpu.jsonl" --figures "$OUT" | tee "$OUT/gpu.md"
    tar czf "$OUT/logs.tgz" -C benchmarks/.work/gpu logs 2>/dev/null
    cmp -s "$OUT/gpu.jsonl" "$RESULTS" || cp "$OUT/gpu.jsonl" "$RESULTS"
fi
