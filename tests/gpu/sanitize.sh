#!/bin/sh
# Runs the GPU tests of a build folder under compute-sanitizer's racecheck, memcheck and initcheck,
# in their brief form, JOBS (6) programs at a time, and prints what each found. racecheck takes some
# 10 ms for every launch, so that SHARES (4) processes share the cases of a long test there. A
# program that runs for longer than TEST_SECONDS (300) has failed. TOOLS and TESTS choose some.
#   tests/gpu/sanitize.sh build/rel
#   TOOLS=memcheck TESTS="test_attend test_ops" JOBS=2 tests/gpu/sanitize.sh build/rel
set -u

# run_one TOOL PROGRAM SHARE
run_one()
{
    log=$2.$1.$(echo "$3" | tr / -).log
    errors=explicit # of calls to CUDA
    [ "$(basename "$2")" != test_memory ] || errors=no # what it tests is that calls fail
    start=$(date +%s)
    GPU_CASES=$3 MOEBIUS_BRIEF=1 timeout -k 2 "${TEST_SECONDS:-300}" \
        compute-sanitizer --tool "$1" --error-exitcode 9 \
        $([ "$1" != memcheck ] || echo --report-api-errors $errors) \
        stdbuf -oL "$2" >"$log" 2>&1 </dev/null
    status=$?
    case $status in
    0) grep -q '^\[  PASSED  \]' "$log" && verdict=clean || verdict='ran no test' ;;
    124) verdict='not finished' ;;
    *) verdict="$(grep -c '^========= \(Error\|Warning\|Invalid\|Uninitialized\|Program hit\)' "$log") findings, exit status $status" ;;
    esac
    printf '%-10s %-16s %4s %4d s  %s\n' "$1" "$(basename "$2")" "$3" $(($(date +%s) - start)) "$verdict"
    [ "$verdict" = clean ]
}

# The shares of the cases of TEST under TOOL.
shares_of()
{
    case $1:$2 in
    racecheck:test_attend | racecheck:test_backend | racecheck:test_experts | racecheck:test_gating)
        seq -f "%.0f/${SHARES:-4}" 0 $((${SHARES:-4} - 1)) ;;
    *) echo 0/1 ;;
    esac
}

if [ "$1" = run ]; then
    run_one "$2" "$3" "$4"
    exit
fi
for tool in ${TOOLS:-racecheck memcheck initcheck}; do
    for test in ${TESTS:-$(cd "$1/tests/gpu" && ls | grep '^test_[a-z_]*$')}; do
        for share in $(shares_of $tool $test); do
            echo "$tool $1/tests/gpu/$test $share"
        done
    done
done | xargs -n 3 -P "${JOBS:-6}" "$0" run
