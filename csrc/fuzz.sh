#!/bin/sh
# Builds the libFuzzer target with AddressSanitizer and UBSan (needs clang), and runs it; findings and corpus stay in
# build/fuzz.
# usage: csrc/fuzz.sh [seconds, 1200 by default] [further libFuzzer arguments]
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-1200}
[ $# -eq 0 ] || shift
place=build/fuzz
mkdir -p "$place/corpus"
"${CLANGXX:-clang++}" -std=c++17 -O1 -g -fno-omit-frame-pointer -Icsrc -Ifastsia/answers \
    -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined -pthread \
    csrc/fuzz/fuzz_answer.cc csrc/answer.cc csrc/boxed.cc csrc/choice.cc csrc/extract_batch.cc csrc/fold.cc csrc/number.cc csrc/plain.cc csrc/spelling.cc csrc/stream.cc csrc/tables.cc csrc/vocabulary.cc \
    -o "$place/fuzz_answer"
exec "$place/fuzz_answer" -max_total_time="$seconds" -max_len=2048 -dict=csrc/fuzz/answer.dict \
    -artifact_prefix="$place/" -print_final_stats=1 "$@" "$place/corpus"
