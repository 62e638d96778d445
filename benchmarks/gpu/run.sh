#!/usr/bin/env bash
# Everything that wants a GPU, for someone who has one for a while: the extension, then the rows of the suite in order of
# worth (python -m benchmarks.gpu --list), the GPU tests among them.
#
#     OUT=results benchmarks/gpu/run.sh [options of python -m benchmarks.gpu]
#
# Works without make, without a network and without .venv: with the python3 that has torch and transformers, or $PYTHON.
# $OUT gets gpu.jsonl (a line as each row or case ends), gpu.md and logs.tgz. Run it again to go on, also when it was
# killed: what $OUT/gpu.jsonl or $RESULTS (benchmarks/results/gpu.jsonl) contains is not measured again. Where $OUT is empty
# in every call, as on a machine that is lent for minutes, bring $OUT/gpu.jsonl back and make it $RESULTS for the next.
# BUDGET_S (430) bounds a call's measurements, $COMMIT is named in the rows where there is no repository.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PYTHON=${PYTHON:-python3}
OUT=${OUT:-benchmarks/results}
RESULTS=${RESULTS:-benchmarks/results/gpu.jsonl}
mkdir -p "$OUT" "$(dirname "$RESULTS")"

# A core that another machine built from other sources may be here.
FASTSIA_REQUIRE_CORE=1 "$PYTHON" setup.py --quiet build_ext --inplace
core=$("$PYTHON" -c 'import fastsia._C as core; print(core.__file__)') || exit 1
newer=$(find csrc/*.cc csrc/*.h fastsia/answers/tables.txt -newer "$core" | head -n 1)
[ -z "$newer" ] || { echo "$core is older than $newer"; exit 1; }

# The lines of both files, each once.
touch "$OUT/gpu.jsonl" "$RESULTS"
awk '!seen[$0]++' "$RESULTS" "$OUT/gpu.jsonl" > "$OUT/merged" && mv "$OUT/merged" "$OUT/gpu.jsonl"
trap '[ "$OUT/gpu.jsonl" -ef "$RESULTS" ] || cp "$OUT/gpu.jsonl" "$RESULTS"' EXIT
"$PYTHON" -m benchmarks.gpu --output "$OUT/gpu.jsonl" --device "${DEVICE:-cuda}" --budget_s "${BUDGET_S:-430}" "$@"
status=$?
"$PYTHON" -m benchmarks.gpu.report "$OUT/gpu.jsonl" | tee "$OUT/gpu.md"
tar czf "$OUT/logs.tgz" -C benchmarks/.work/gpu logs 2>/dev/null
exit "$status"
