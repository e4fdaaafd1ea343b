/* What a stamp adds to an operation that is queued, by the tokens of its step: kernels of one token
 * begin sooner behind each other than those of many, unless there is a stamp between them. */
#include "exec/calibrate_parts.h"

void calibration_keep_stamp(Calibration *c, double tokens, double ns)
{
    QueueStamps *stamps = &c->queue_stamps;
    uint32_t i = 0;
    while (i < stamps->n && stamps->tokens[i] != tokens)
        i++;
    if (i == COUNT(stamps->tokens))
        return;
    stamps->n = i == stamps->n ? i + 1 : stamps->n;
    stamps->tokens[i] = tokens;
    stamps->ns[i] = ns;
}

double calibration_stamp_ns(const Calibration *c, double tokens)
{
    const QueueStamps *stamps = &c->queue_stamps;
    uint32_t i = 0;
    if (stamps->n == 0)
        return c->stamp_ns;
    while (i < stamps->n && stamps->tokens[i] < tokens)
        i++;
    if (i == 0 || i == stamps->n)
        return stamps->ns[i == 0 ? 0 : i - 1];
    double share = (tokens - stamps->tokens[i - 1]) / (stamps->tokens[i] - stamps->tokens[i - 1]);
    return stamps->ns[i - 1] + share * (stamps->ns[i] - stamps->ns[i - 1]);
}
