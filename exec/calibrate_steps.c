/* The grid of steps: decode, prefill, chunks of prompts, sources. */
#include <string.h>

#include "exec/calibrate_parts.h"

enum { DECODE_REPEATS = 9, PREFILL_REPEATS = 5, QUICK_REPEATS = 3, STAMP_REPEATS = 15 };

static const uint32_t REQUESTS[] = {1, 2, 4, 8, 12, 16, 24, 32, 48, 64};
static const uint32_t CONTEXTS[] = {0, 64, 256, 512, 1024, 2048, 4096};
static const uint32_t QUICK_REQUESTS[] = {1, 2, 4, 8};
static const uint32_t QUICK_CONTEXTS[] = {0, 64};

typedef struct {
    uint32_t requests;
    uint32_t tokens;
    uint32_t context;
} Place;

static const Place PROMPTS[] = {
    {1, 16, 0},    {1, 32, 0},    {1, 64, 0},     {1, 96, 0},     {1, 128, 0},    {1, 192, 0},
    {1, 256, 0},   {1, 384, 0},   {1, 512, 0},    {1, 768, 0},    {1, 1024, 0},   {1, 2048, 0},
    {1, 4096, 0},  {4, 16, 0},    {4, 64, 0},     {4, 128, 0},    {4, 256, 0},    {4, 512, 0},
    {4, 1024, 0},  {8, 64, 0},    {8, 128, 0},    {8, 512, 0},    {16, 16, 0},    {16, 32, 0},
    {16, 64, 0},   {16, 128, 0},  {16, 256, 0},   {16, 512, 0},   {16, 768, 0},   {16, 1024, 0},
    {1, 128, 512}, {1, 512, 512}, {1, 128, 2048}, {1, 512, 2048}, {1, 2048, 2048}};
static const Place QUICK_PROMPTS[] = {{1, 16, 0}, {1, 64, 0},  {1, 128, 0},
                                      {4, 64, 0}, {4, 128, 0}, {1, 32, 64}};

#define COUNT(array) (sizeof(array) / sizeof *(array))

bool calibration_only_counts(Calibration *c)
{
    if (c->counting)
        c->total++;
    else if (c->options->progress != NULL)
        c->options->progress(c->options->progress_argument, c->done++, c->total);
    return c->counting;
}

Status calibrate_stamp(Calibration *c)
{
    const StepKind kind = {.requests = 1, .tokens = 1};
    StepMeasured measured;
    if (calibration_only_counts(c))
        return OK;
    TRY(calibration_measure(c, &kind, STAMP_REPEATS, &measured));
    c->stamp_ns = measured.stamp_ns > 0 ? measured.stamp_ns : 0;
    return calibration_note(c, "stamp", "", UNIT_NS, NULL, 0, NULL, c->stamp_ns,
                            measured.whole_spread);
}

static Status measure_kind(Calibration *c, const StepKind *kind, uint32_t repeats)
{
    StepMeasured measured;
    TRY(calibration_measure(c, kind, c->options->quick ? QUICK_REPEATS : repeats, &measured));
    return calibration_note_step(c, kind, &measured);
}

/* Positions that measuring a kind of one token takes, at the most. */
static uint32_t decode_room(void)
{
    return 2 * CALIBRATE_WARM_UP + 2 * DECODE_REPEATS;
}

static Status measure_decode(Calibration *c, uint32_t requests, uint32_t context)
{
    const StepKind kind = {.requests = requests, .tokens = 1};
    if (requests > c->max_requests || context + decode_room() > c->max_length)
        return OK;
    if (calibration_only_counts(c))
        return OK;
    TRY(calibration_fill(c, requests, context));
    return measure_kind(c, &kind, DECODE_REPEATS);
}

static Status measure_decodes(Calibration *c)
{
    const uint32_t *requests = c->options->quick ? QUICK_REQUESTS : REQUESTS;
    const uint32_t *contexts = c->options->quick ? QUICK_CONTEXTS : CONTEXTS;
    const size_t n_requests = c->options->quick ? COUNT(QUICK_REQUESTS) : COUNT(REQUESTS);
    size_t n_contexts = c->options->quick ? COUNT(QUICK_CONTEXTS) : COUNT(CONTEXTS);
    for (size_t i = 0; i < n_contexts; i++)
        for (size_t r = 0; r < n_requests; r++)
            TRY(measure_decode(c, requests[r], contexts[i]));
    return OK;
}

/* A prompt from its beginning, or a part of one that goes on. */
static Status measure_prompt(Calibration *c, Stack stack, const Place *place)
{
    const StepKind kind = {.stack = stack,
                           .requests = place->requests,
                           .tokens = place->tokens,
                           .anew = place->context == 0};
    uint32_t steps = kind.anew ? 1 : 2 * CALIBRATE_WARM_UP + 2 * PREFILL_REPEATS;
    if (place->requests > c->max_requests || place->requests * place->tokens > c->max_tokens ||
        place->context + steps * place->tokens > c->max_length)
        return OK;
    if (calibration_only_counts(c))
        return OK;
    if (!kind.anew)
        TRY(calibration_fill(c, place->requests, place->context));
    return measure_kind(c, &kind, PREFILL_REPEATS);
}

static Status measure_prompts(Calibration *c, Stack stack)
{
    const Place *places = c->options->quick ? QUICK_PROMPTS : PROMPTS;
    size_t n = c->options->quick ? COUNT(QUICK_PROMPTS) : COUNT(PROMPTS);
    for (size_t i = 0; i < n; i++)
        if (stack == STACK_DECODER || places[i].context == 0)
            TRY(measure_prompt(c, stack, &places[i]));
    return OK;
}

Status calibrate_steps(Calibration *c)
{
    TRY(measure_decodes(c));
    TRY(measure_prompts(c, STACK_DECODER));
    return model_is_encoder_decoder(c->config) ? measure_prompts(c, STACK_ENCODER) : OK;
}
