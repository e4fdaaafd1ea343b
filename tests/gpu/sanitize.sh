#!/bin/sh
# Runs the GPU tests of a build folder under compute-sanitizer's racecheck, memcheck and initcheck,
# JOBS (4) at a time, in their brief form, and prints what each found. One that runs for longer than
# TEST_SECONDS (300) has failed. TOOLS and TESTS choose some of them.
#   tests/gpu/sanitize.sh build/rel
#   TOOLS=racecheck TESTS="test_attend test_ops" JOBS=2 tests/gpu/sanitize.sh build/rel
set -u

# run_one TOOL PROGRAM
run_one()
{
    log=$2.$1.log
    errors=explicit # of calls to CUDA
    [ "$(basename "$2")" != test_memory ] || errors=no # what it tests is that calls fail
    start=$(date +%s)
    MOEBIUS_BRIEF=1 timeout -k 2 "${TEST_SECONDS:-300}" compute-sanitizer --tool "$1" --error-exitcode 9 \
        $([ "$1" != memcheck ] || echo --report-api-errors $errors) \
        stdbuf -oL "$2" >"$log" 2>&1 </dev/null
    status=$?
    case $status in
    0) grep -q '^\[  PASSED  \]' "$log" && verdict=clean || verdict='ran no test' ;;
    124) verdict='not finished' ;;
    *) verdict="$(grep -c '^========= \(Error\|Warning\|Invalid\|Uninitialized\|Program hit\)' "$log") findings, exit status $status" ;;
    esac
    printf '%-10s %-16s %4d s  %s\n' "$1" "$(basename "$2")" $(($(date +%s) - start)) "$verdict"
    [ "$verdict" = clean ]
}

if [ "$1" = run ]; then
    run_one "$2" "$3"
    exit
fi
for tool in ${TOOLS:-racecheck memcheck initcheck}; do
    for test in ${TESTS:-$(cd "$1/tests/gpu" && ls | grep '^test_[a-z_]*$')}; do
        echo "$tool $1/tests/gpu/$test"
    done
done | xargs -n 2 -P "${JOBS:-4}" "$0" run
