#!/bin/sh
# The whole loop with the model in models/: record, replay, plan, validate.
#   tools/quickstart.sh build/moebius build/quickstart
set -eu
moebius=$1
out=$2
model=models/tiny-32x4
sizes="4 8 12 16 20 24 28"

rm -rf "$out"
mkdir -p "$out"

# The number that KEY has in the JSON document FILE (its first one).
number() { sed -n "s/.*\"$2\":[[:space:]]*\([0-9.e+-]*\).*/\1/p" "$1" | head -n 1; }
word() { sed -n "s/.*\"$2\":[[:space:]]*\"\([^\"]*\)\".*/\1/p" "$1" | head -n 1; }

echo "1. record: $model reads 16 streams of text, 2 requests of each, and continues them"
"$moebius" record --model $model --tokens $model/eval_tokens.safetensors --prompt-length 256 \
    --requests 2 --batch 4 --generate 64 --ignore-eos --out "$out/trace.db"

echo
echo "2. replay: every online policy at $(echo "$sizes" | wc -w) sizes, and the offline optimum as a bound"
cat >"$out/study.json" <<STUDY
{ "moebius_study": 1,
  "name": "policies and sizes",
  "base": { "buffer": { "scope": "layer", "order": "batch" } },
  "grid": { "buffer.evict": ["fifo", "lifo", "lifo-inactive-first", "lru", "mru", "lfu", "random"],
            "buffer.slots": [$(echo "$sizes" | tr ' ' ',')] } }
STUDY
"$moebius" sweep --trace "$out/trace.db" --study "$out/study.json" --out "$out/study.db"

echo
echo "3. plan and validate: the best policy of each size runs in the executor, recorded, and the"
echo "   simulator must have said the same of every hit, load and eviction"
echo
failed=0
printf '%-22s %5s  %10s  %18s  %9s\n' policy slots 'miss ratio' 'memory for experts' validated
printf '%s\n' ------------------------------------------------------------------------
for size in $sizes; do
    "$moebius" plan --from "$out/study.db" --best misses --where "slots = $size" \
        --out "$out/plan-$size.json" --json >"$out/plan.out"
    validated=yes
    "$moebius" validate --trace "$out/trace.db" --plan "$out/plan-$size.json" \
        >"$out/validate-$size.txt" || validated=no
    [ $validated = yes ] || failed=1
    printf '%-22s %5d  %10.4f  %14.2f MiB  %9s\n' "$(word "$out/plan.out" evict)" "$size" \
        "$(number "$out/plan.out" miss_ratio)" \
        "$(awk "BEGIN { print $(number "$out/plan.out" memory_bytes) / 1048576 }")" $validated
done
rm -f "$out/plan.out"

echo
"$moebius" plan --from "$out/study.db" --best memory --misses-at-most 0.25 --out "$out/plan.json"
"$moebius" validate --trace "$out/trace.db" --plan "$out/plan.json" >"$out/validate.txt" || failed=1
tail -n 1 "$out/validate.txt"
echo
printf '%s\n' "trace  $out/trace.db" "study  $out/study.db" "plan   $out/plan.json"
exit $failed
