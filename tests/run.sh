#!/bin/sh
# Runs every test program of a build folder and adds up what they report.
#   tests/run.sh build/rel
set -u
build=$1
passed=0
failed=0
export MOEBIUS="$build/moebius"
export TSAN_OPTIONS="${TSAN_OPTIONS:-halt_on_error=1}"
for program in "$build"/tests/test_*; do
    case $program in *.o | *.d) continue ;; esac
    log=$program.log
    start=$(date +%s)
    "$program" >"$log" 2>&1
    status=$?
    seconds=$(($(date +%s) - start))
    good=$(sed -n 's/^\[  PASSED  \] \([0-9]*\) test(s).*/\1/p' "$log" | tail -n 1)
    bad=$(sed -n 's/^\[  FAILED  \] \([0-9]*\) test(s).*/\1/p' "$log" | tail -n 1)
    [ "$status" -eq 0 ] || [ "${bad:-0}" -gt 0 ] || bad=1
    passed=$((passed + ${good:-0}))
    failed=$((failed + ${bad:-0}))
    printf '%-28s %4d passed %3d failed %4d s\n' "$(basename "$program")" "${good:-0}" "${bad:-0}" "$seconds"
    [ "${bad:-0}" -eq 0 ] || { grep -vE '^\[ +(RUN|OK) ' "$log" | tail -n 60; }
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
