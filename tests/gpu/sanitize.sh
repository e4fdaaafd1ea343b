#!/bin/sh
# Runs the GPU tests of a build folder under compute-sanitizer's racecheck, memcheck and initcheck,
# in their brief form, JOBS (4) programs at a time, and prints what each found. racecheck takes 6 ms
# and more for every launch, so it has the briefest form; more programs at a time are not done
# sooner: they share the GPU. A program that runs for longer than TEST_SECONDS (600) has failed.
# TOOLS and TESTS choose some; PROGRAM:TEST is one test of a program.
#   tests/gpu/sanitize.sh build/rel
#   TOOLS=memcheck TESTS="test_attend test_ops:norms_pick_their_rows" tests/gpu/sanitize.sh build/rel
set -u

# Kernels that are not ours are cuBLAS's.
LIBRARY='nvjet|cutlass|gemm|gemv|splitK|cublas'
# What a finding begins with.
FINDING='^========= (Error|Warning|Invalid|Uninitialized|Program hit|Barrier|Malloc|Fatal|Leaked)'

# run_one TOOL FOLDER PROGRAM[:TEST]
run_one()
{
    program=${3%%:*}
    test=${3#"$program"}
    test=${test#:}
    log=$2/$program${test:+.$test}.$1.log
    options=
    briefness=1
    case $1:$program in
    memcheck:test_memory) options="--report-api-errors no" ;; # it tests that calls fail
    # a warp's lanes meet before one of them arrives at a barrier for all
    racecheck:*) options="--racecheck-indirect-barrier-dependency"; briefness=2 ;;
    esac
    start=$(date +%s)
    MOEBIUS_BRIEF=$briefness MOEBIUS_TESTS=${test:-*} timeout -k 2 "${TEST_SECONDS:-600}" \
        compute-sanitizer --tool "$1" --error-exitcode 9 $options \
        stdbuf -oL "$2/$program" >"$log" 2>&1 </dev/null
    status=$?
    ours=$(grep -E "$FINDING" "$log" | grep -vcE "$LIBRARY")
    theirs=$(grep -E "$FINDING" "$log" | grep -cE "$LIBRARY")
    case $status in
    0 | 9) grep -q '^\[  PASSED  \] [1-9]' "$log" && verdict=clean || verdict='ran no test' ;;
    124 | 137) verdict='not finished' ;;
    *) verdict="exit status $status" ;;
    esac
    ! grep -q '^\[  FAILED  \]' "$log" || verdict='tests fail'
    # it found something that does not begin so, or that is not in the log
    [ $status != 9 ] || [ $((ours + theirs)) != 0 ] || verdict='exit status 9'
    ! grep -q 'were not printed' "$log" || verdict='findings that are not printed'
    [ "$ours" = 0 ] || verdict="$ours findings, exit status $status"
    [ "$theirs" = 0 ] || verdict="$verdict; $theirs in kernels of cuBLAS"
    printf '%-10s %-16s %4d s  %s\n' "$1" "$3" $(($(date +%s) - start)) "$verdict"
    case $verdict in clean*) ;; *) return 1 ;; esac
}

if [ "$1" = run ]; then
    run_one "$2" "$3" "$4"
    exit
fi
# test_ranks has no kernels but NCCL's, in processes that it starts.
for tool in ${TOOLS:-racecheck memcheck initcheck}; do
    for test in ${TESTS:-$(cd "$1/tests/gpu" && ls | grep '^test_[a-z_]*$' | grep -vx test_ranks)}; do
        echo "$tool $1/tests/gpu $test"
    done
done | xargs -n 3 -P "${JOBS:-4}" "$0" run
