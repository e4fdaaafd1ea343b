#include <inttypes.h>
#include <stdio.h>

#include "cli/print.h"
#include "cli/record.h"
#include "cli/serving_print.h"
#include "cli/table.h"

static Status fill_buffer_json(cJSON *json, const Recording *recording)
{
    const BufferCounts *counts = &recording->watch.counts;
    uint64_t lookups = counts->hits + counts->misses;
    TRY(json_add_u64(json, "lookups", lookups));
    TRY(json_add_u64(json, "hits", counts->hits));
    TRY(json_add_u64(json, "misses", counts->misses));
    TRY(json_add_f64(json, "miss_ratio",
                     lookups > 0 ? (double)counts->misses / (double)lookups : 0.0));
    TRY(json_add_u64(json, "loads", counts->loads));
    TRY(json_add_u64(json, "bytes_loaded", counts->bytes_loaded));
    TRY(json_add_u64(json, "host_computed", counts->host_computed));
    TRY(json_add_u64(json, "prefetches", counts->prefetches));
    TRY(json_add_u64(json, "bytes_prefetched", counts->bytes_prefetched));
    TRY(prefetch_fates_json(&recording->watch.fates, json));
    TRY(json_add_u64(json, "evictions", counts->evictions));
    return json_add_u64(json, "slot_bytes", executor_slot_bytes(recording->executor));
}

static Status fill_json(cJSON *json, const Recording *recording)
{
    const RunTotals *totals = &recording->totals;
    TRY(json_add_text(json, "trace", recording->arguments->out));
    TRY(json_add_text(json, "model", recording->arguments->model.name));
    TRY(json_add_text(json, "device", executor_device(recording->executor)));
    TRY(json_add_bool(json, "complete", !totals->stopped));
    TRY(json_add_u64(json, "steps", totals->steps));
    TRY(json_add_u64(json, "tokens", totals->tokens));
    TRY(json_add_u64(json, "generated", totals->generated));
    TRY(json_add_u64(json, "tokens_left_out", recording->left_out));
    TRY(json_add_u64(json, "prefill_tokens", totals->prefill_tokens));
    TRY(json_add_u64(json, "prefill_ns", totals->prefill_ns));
    TRY(json_add_u64(json, "decode_tokens", totals->decode_tokens));
    TRY(json_add_u64(json, "decode_ns", totals->decode_ns));
    TRY(fill_buffer_json(json, recording));
    if (recording->plan.batching.mode == BATCHING_CONTINUOUS)
        TRY(serving_report_json(&totals->serving, json));
    if (recording->arguments->print_text)
        return generated_add_json(&recording->generated, &recording->set, json);
    return OK;
}

static Status print_recording_json(const Recording *recording)
{
    cJSON *json;
    TRY(print_json_begin(&json));
    return print_json_end(json, fill_json(json, recording));
}

static void print_phase(const char *name, uint64_t tokens, uint64_t duration_ns)
{
    char text[NUMBER_BYTES];
    if (tokens > 0)
        printf("%s: %s tokens at %.0f/s\n", name, number_text(tokens, text),
               per_second(tokens, duration_ns));
}

static void print_recording(const Recording *recording)
{
    char tokens[NUMBER_BYTES];
    char lookups[NUMBER_BYTES];
    char loaded[NUMBER_BYTES];
    const RunTotals *totals = &recording->totals;
    const BufferCounts *counts = &recording->watch.counts;
    printf("%s: %" PRIu64 " steps, %s tokens on %s\n", recording->arguments->out, totals->steps,
           number_text(totals->tokens, tokens), executor_device(recording->executor));
    print_phase("prefill", totals->prefill_tokens, totals->prefill_ns);
    print_phase("decode", totals->decode_tokens, totals->decode_ns);
    if (recording->left_out > 0)
        printf("%s tokens of the streams are in no request\n",
               number_text(recording->left_out, tokens));
    if (recording->plan.buffer.on)
        printf("expert buffer: miss ratio %.4f of %s lookups, %s loaded\n",
               counts->hits + counts->misses > 0
                   ? (double)counts->misses / (double)(counts->hits + counts->misses)
                   : 0.0,
               number_text(counts->hits + counts->misses, lookups),
               bytes_text(counts->bytes_loaded, loaded));
}

static Status print_people(const Recording *recording)
{
    print_recording(recording);
    return recording->plan.batching.mode == BATCHING_CONTINUOUS
               ? serving_print(&recording->totals.serving)
               : OK;
}

Status recording_report(const Recording *recording)
{
    if (recording->arguments->json)
        TRY(print_recording_json(recording));
    else
        TRY(print_people(recording));
    if (recording->arguments->print_text && !recording->arguments->json)
        TRY(generated_print(&recording->generated, &recording->set));
    if (!recording->totals.stopped)
        return OK;
    return fail(ERR_INTERRUPTED, "%s: stopped after %" PRIu64 " steps, which can be read",
                recording->arguments->out, recording->totals.steps);
}
