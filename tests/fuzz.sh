#!/bin/sh
# Runs every fuzz target of a folder for so many seconds each, from the seeds in tests/seeds/; a
# crash fails.
#   tests/fuzz.sh build/fuzz/tests 60
set -u
folder=$1
seconds=$2
seeds=$(dirname "$0")/seeds
ran=0
failed=0
for program in "$folder"/fuzz_*; do
    case $program in *.o | *.d | *.log | *.corpus) continue ;; esac
    [ -x "$program" ] || continue
    name=$(basename "$program")
    corpus=$program.corpus
    mkdir -p "$corpus"
    [ ! -d "$seeds/$name" ] || cp "$seeds/$name"/* "$corpus"
    if "$program" -max_total_time="$seconds" -max_len=4096 -timeout=10 \
        -artifact_prefix="$folder/$name-" "$corpus" >"$program.log" 2>&1; then
        echo "$name: $(sed -n 's/^Done \([0-9]* runs in [0-9]* second.*\)$/\1/p' "$program.log"), no crash"
    else
        echo "$name: crashed, see $program.log"
        tail -n 40 "$program.log"
        failed=$((failed + 1))
    fi
    ran=$((ran + 1))
done
echo "$ran fuzz targets, $failed crashed"
[ "$failed" -eq 0 ] && [ "$ran" -gt 0 ]
