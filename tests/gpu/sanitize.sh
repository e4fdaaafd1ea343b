#!/bin/sh
# Runs the GPU tests of a build folder under compute-sanitizer's racecheck, initcheck and memcheck,
# JOBS (8) programs at a time, and prints of each tool and program the seconds, the tests that ended
# and what was found: in kernels of ours, and in cuBLAS's own. Fails when anything of ours was found,
# a test failed, or a program did not end within TEST_SECONDS (600). racecheck takes 6 ms and more for
# every launch, and initcheck a millisecond for every row of a copy: they have the briefest form of
# the tests, memcheck the brief one; both reach nearly every kernel. TOOLS and TESTS choose some;
# PROGRAM:TEST is one test of a program. REPORT is a file for the same as JSON, COMMIT what it is of.
#   tests/gpu/sanitize.sh build/rel
#   TOOLS=memcheck TESTS="test_attend test_ops:norms_pick_their_rows" tests/gpu/sanitize.sh build/rel
set -u

# Kernels that are not ours are cuBLAS's.
LIBRARY='nvjet|cutlass|gemm|gemv|splitK|cublas'
# What a finding begins with.
FINDING='^========= (Error|Warning|Invalid|Uninitialized|Program hit|Barrier|Malloc|Fatal|Leaked)'

# count PATTERN FILE: the number that cmocka's summary has in its place
count()
{
    number=$(sed -n "s/^$1.*/\1/p" "$2" | tail -n 1)
    echo "${number:-0}"
}

# run_one TOOL FOLDER PROGRAM[:TEST]
run_one()
{
    program=${3%%:*}
    test=${3#"$program"}
    test=${test#:}
    log=$2/$program${test:+.$test}.$1.log
    options=
    briefness=2
    case $1:$program in
    memcheck:test_memory) options="--report-api-errors no"; briefness=1 ;; # it tests that calls fail
    memcheck:*) briefness=1 ;;
    # a warp's lanes meet before one of them arrives at a barrier for all
    racecheck:*) options="--racecheck-indirect-barrier-dependency" ;;
    esac
    start=$(date +%s%N)
    MOEBIUS_BRIEF=$briefness MOEBIUS_TESTS=${test:-*} timeout -k 2 "${TEST_SECONDS:-600}" \
        compute-sanitizer --tool "$1" --error-exitcode 9 $options \
        stdbuf -oL "$2/$program" >"$log" 2>&1 </dev/null
    status=$?
    tenths=$((($(date +%s%N) - start) / 100000000))
    seconds=$((tenths / 10)).$((tenths % 10))
    ours=$(grep -E "$FINDING" "$log" | grep -vcE "$LIBRARY")
    theirs=$(grep -E "$FINDING" "$log" | grep -cE "$LIBRARY")
    ended=$(count '\[  PASSED  \] \([0-9]*\) test(s)' "$log")
    skipped=$(count ' \([0-9]*\) SKIPPED TEST' "$log")
    case $status in
    0 | 9) verdict=clean ;;
    124 | 137) verdict='not finished' ;;
    *) verdict="exit status $status" ;;
    esac
    # a summary without tests, or findings that do not begin so or are not in the log
    [ "$verdict" != clean ] || [ "$ended" != 0 ] || verdict='ran no test'
    [ "$verdict" != clean ] || grep -q '^========= .*SUMMARY:' "$log" || verdict='no summary'
    [ $status != 9 ] || [ $((ours + theirs)) != 0 ] || verdict='exit status 9'
    ! grep -q '^\[  FAILED  \]' "$log" || verdict='tests fail'
    ! grep -q 'were not printed' "$log" || verdict='findings that are not printed'
    [ "$ours" = 0 ] || [ "$verdict" != clean ] || verdict='findings'
    printf '%-10s %-17s %6s s  %2d tests (%d skipped)  %d findings (%d in cuBLAS)  %s\n' \
        "$1" "$3" "$seconds" "$ended" "$skipped" "$ours" "$theirs" "$verdict"
    printf '{"tool": "%s", "program": "%s", "seconds": %s, "tests": %d, "skipped": %d, %s}\n' \
        "$1" "$3" "$seconds" "$ended" "$skipped" \
        "\"findings\": $ours, \"findings_in_cublas\": $theirs, \"result\": \"$verdict\"" \
        >"$log.json"
    [ "$verdict" = clean ]
}

# Of the runs whose lines are in FOLDER.
write_report()
{
    gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -n 1)
    version=$(compute-sanitizer --version | sed -n 's/^Version //p')
    printf '{\n "command": "tests/gpu/sanitize.sh (make sanitize-gpu)",\n "device": "%s",\n "driver": "%s",\n' \
        "${gpu%%,*}" "${gpu##*, }"
    printf ' "version": "%s",\n "commit": "%s",\n "jobs": %d,\n "wall_seconds": %d,\n "runs": [\n' \
        "$version" "${COMMIT:-$(git describe --always --dirty --exclude '*')}" "$JOBS" "$2"
    cat "$1"/*check.log.json | sed 's/^/  /; $!s/$/,/'
    printf ' ]\n}\n'
}

if [ "$1" = run ]; then
    run_one "$2" "$3" "$4"
    exit
fi
export JOBS="${JOBS:-8}"
folder=$1/tests/gpu
rm -f "$folder"/*check.log.json
start=$(date +%s)
# What takes longest begins first; test_ranks has no kernels but NCCL's, in processes that it starts.
LONGEST='test_backend|test_experts|test_many_experts|test_gating|test_overlap|test_set_plan'
programs=$(cd "$folder" && ls | grep '^test_[a-z_]*$' | grep -vx test_ranks)
programs="$(echo "$programs" | grep -xE "$LONGEST") $(echo "$programs" | grep -vxE "$LONGEST")"
for tool in ${TOOLS:-racecheck initcheck memcheck}; do
    for test in ${TESTS:-$programs}; do
        echo "$tool $folder $test"
    done
done | xargs -n 3 -P "$JOBS" "$0" run
status=$?
[ -z "${REPORT:-}" ] || write_report "$folder" $(($(date +%s) - start)) >"$REPORT"
exit $status
