#include "sim/parts.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* A plain decimal fraction; what strtod() takes besides (spaces, signs, infinities) is none. */
static bool read_share(const char *text, size_t length, double *share)
{
    char *end;
    if (length == 0 || strspn(text, "0123456789.") < length)
        return false;
    *share = strtod(text, &end);
    return end == text + length && *share <= 1;
}

Status trace_part_parse(const char *text, TracePart *part)
{
    size_t length = strcspn(text, ":");
    *part = (TracePart){.given = true};
    if (text[length] == ':' && read_share(text, length, &part->from) &&
        read_share(text + length + 1, strlen(text + length + 1), &part->to) &&
        part->from < part->to)
        return OK;
    return fail(ERR_INPUT, "\"%s\": must be FROM:TO, shares of the steps, as in 0:0.5", text);
}

/* Shares are decimal, so that 0.3 of ten steps is just below 3. */
static uint64_t step_at(double share, uint64_t n_steps)
{
    uint64_t step = (uint64_t)(share * (double)n_steps + 1e-6);
    return step < n_steps ? step : n_steps;
}

static Status steps_of(const char *name, const TracePart *part, uint64_t n_steps, Steps *steps)
{
    steps->first = step_at(part->from, n_steps);
    steps->end = step_at(part->to, n_steps);
    if (steps->first < steps->end)
        return OK;
    return fail(ERR_INPUT, "%s: the part %g:%g of %" PRIu64 " steps has none", name, part->from,
                part->to, n_steps);
}

Status trace_parts_choose(const PartsAsked *asked, bool learnt, uint64_t n_steps, TraceParts *parts)
{
    TracePart train = asked->train;
    TracePart test = asked->test;
    *parts = (TraceParts){.trains = learnt, .test = {0, n_steps}};
    if (!learnt && train.given)
        return fail(ERR_INPUT, "--train: nothing is learnt");
    if (!learnt)
        return test.given ? steps_of("--test", &test, n_steps, &parts->test) : OK;
    if (!train.given)
        train = (TracePart){.to = test.given ? test.from : 0.5};
    if (!test.given)
        test = (TracePart){.from = train.to, .to = 1};
    if (train.from >= train.to)
        return fail(ERR_INPUT, "--test: nothing lies before it to learn from; give --train too");
    if (test.from >= test.to)
        return fail(ERR_INPUT, "--train: nothing lies behind it to be scored; give --test too");
    TRY(steps_of("--train", &train, n_steps, &parts->train));
    return steps_of("--test", &test, n_steps, &parts->test);
}

bool trace_parts_overlap(const TraceParts *parts)
{
    return parts->trains && parts->train.first < parts->test.end &&
           parts->test.first < parts->train.end;
}
