#include "exec/rope.h"

#include <math.h>

static const double TWO_PI = 6.283185307179586;

bool rope_has_long_table(const RopeConfig *rope)
{
    return rope->type == ROPE_LONGROPE && rope->original_positions < rope->max_positions;
}

/* theta^(2 i / dims) */
static float base_power(const RopeConfig *rope, uint32_t i, uint32_t dims)
{
    return powf(rope->theta, (float)(2 * i) / (float)dims);
}

/* Llama 3.1: long waves are slowed down by the factor, short ones kept, those between mixed. */
static float llama3_frequency(const RopeConfig *rope, float frequency)
{
    double wave = TWO_PI / frequency;
    double original = rope->original_positions;
    double low = rope->low_frequency_factor;
    double high = rope->high_frequency_factor;
    if (wave < original / high)
        return frequency;
    if (wave > original / low)
        return (float)(frequency / rope->factor);
    double smooth = (original / wave - low) / (high - low);
    return (float)((1 - smooth) * frequency / rope->factor + smooth * frequency);
}

/* The dimension that turns ROTATIONS times within the original positions. */
static double yarn_dimension(const RopeConfig *rope, uint32_t dims, double rotations)
{
    return dims * log(rope->original_positions / (rotations * TWO_PI)) / (2 * log(rope->theta));
}

/* YaRN: Peng et al. 2023, section 3.2: dimensions below LOW are kept, above HIGH slowed down. */
static float yarn_frequency(const RopeConfig *rope, uint32_t dims, uint32_t i)
{
    double low = yarn_dimension(rope, dims, rope->beta_fast);
    double high = yarn_dimension(rope, dims, rope->beta_slow);
    if (rope->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = low > 0 ? low : 0;
    high = high < dims - 1 ? high : dims - 1;
    high += low == high ? 0.001 : 0;
    float ramp = (float)((i - low) / (high - low));
    ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
    float power = base_power(rope, i, dims);
    return 1.0f / ((float)rope->factor * power) * ramp + 1.0f / power * (1 - ramp);
}

static double yarn_mscale(double factor, double mscale)
{
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static double attention_factor(const RopeConfig *rope, bool longer)
{
    double mscale = longer ? rope->long_mscale : rope->short_mscale;
    if (rope->type == ROPE_LONGROPE && mscale > 0)
        return mscale;
    if (rope->attention_factor > 0)
        return rope->attention_factor;
    if (rope->type == ROPE_YARN && rope->mscale > 0 && rope->mscale_all_dim > 0)
        return yarn_mscale(rope->factor, rope->mscale) /
               yarn_mscale(rope->factor, rope->mscale_all_dim);
    if (rope->type == ROPE_YARN)
        return yarn_mscale(rope->factor, 1);
    if (rope->type == ROPE_LONGROPE && rope->factor > 1)
        return sqrt(1 + log(rope->factor) / log(rope->original_positions));
    return 1;
}

void rope_frequencies(const RopeConfig *rope, uint32_t dims, bool longer, float *frequencies,
                      float *scale)
{
    const float *factors = longer ? rope->long_factor : rope->short_factor;
    for (uint32_t i = 0; i < dims / 2; i++) {
        float power = base_power(rope, i, dims);
        float frequency = 1.0f / power;
        if (rope->type == ROPE_LINEAR)
            frequency /= (float)rope->factor;
        else if (rope->type == ROPE_LLAMA3)
            frequency = llama3_frequency(rope, frequency);
        else if (rope->type == ROPE_YARN)
            frequency = yarn_frequency(rope, dims, i);
        else if (rope->type == ROPE_LONGROPE)
            frequency = 1.0f / (factors[i] * power);
        frequencies[i] = frequency;
    }
    *scale = (float)attention_factor(rope, longer);
}

void rope_row(const float *frequencies, uint32_t dims, float scale, uint32_t position,
              float *cosine, float *sine)
{
    for (uint32_t i = 0; i < dims / 2; i++) {
        float angle = (float)position * frequencies[i];
        cosine[i] = (float)cos(angle) * scale;
        sine[i] = (float)sin(angle) * scale;
    }
}
