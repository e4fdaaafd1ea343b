#!/bin/sh
# Runs every test program of a build folder, without a terminal and without input, and adds up what
# they report. One that runs for longer than TEST_SECONDS (900) has failed. TMPDIR says where they
# write; MOEBIUS_EXHAUSTIVE=1 makes fault tests take every case instead of a sample.
#   tests/run.sh build/rel
set -u
build=$1
passed=0
failed=0
skipped=0
export MOEBIUS="$build/moebius"
export TSAN_OPTIONS="${TSAN_OPTIONS:-halt_on_error=1}"
for program in "$build"/tests/test_*; do
    case $program in *.o | *.d | *.log) continue ;; esac
    log=$program.log
    start=$(date +%s)
    timeout "${TEST_SECONDS:-900}" "$program" >"$log" 2>&1 </dev/null
    status=$?
    seconds=$(($(date +%s) - start))
    good=$(sed -n 's/^\[  PASSED  \] \([0-9]*\) test(s).*/\1/p' "$log" | tail -n 1)
    bad=$(sed -n 's/^\[  FAILED  \] \([0-9]*\) test(s).*/\1/p' "$log" | tail -n 1)
    left=$(sed -n 's/^\[  SKIPPED \] \([0-9]*\) test(s).*/\1/p' "$log" | tail -n 1)
    [ "$status" -eq 0 ] || [ "${bad:-0}" -gt 0 ] || bad=1
    [ "$status" -ne 124 ] || echo "$program: stopped after ${TEST_SECONDS:-900} s" >>"$log"
    passed=$((passed + ${good:-0}))
    failed=$((failed + ${bad:-0}))
    skipped=$((skipped + ${left:-0}))
    printf '%-28s %4d passed %3d failed %4d s\n' "$(basename "$program")" "${good:-0}" "${bad:-0}" "$seconds"
    [ "${left:-0}" -eq 0 ] || grep '^skipped: ' "$log"
    [ "${bad:-0}" -eq 0 ] || { # what a checker says of the ending is long, and told after what failed
        grep -aE '^\[ +(ERROR|LINE) ' "$log" | head -n 20
        grep -avE '^\[ +(RUN|OK) ' "$log" | tail -n 60
    }
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
