/* Numbers of JSON, as doubles. */
#include <float.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/json_parts.h"

enum { MOST_DIGITS = 19, MOST_SCALE = 27, MOST_EXPONENT = 9999 };

/* A number in parts: DIGITS times ten to the power of SCALE. */
typedef struct {
    uint64_t digits;
    int n_digits; /* without leading zeroes; above MOST_DIGITS it is not in DIGITS */
    int scale;
} Decimal;

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Adds the digits from AT on; returns their end. */
static const char *take_digits(const char *at, Decimal *decimal)
{
    for (; is_digit(*at); at++) {
        decimal->digits = 10 * decimal->digits + (uint64_t)(*at - '0');
        decimal->n_digits += decimal->n_digits > 0 || *at != '0';
    }
    return at;
}

/* What is too far away is left to strtod(). */
static void add_scale(Decimal *decimal, ptrdiff_t scale)
{
    if (scale >= MOST_EXPONENT || scale <= -MOST_EXPONENT)
        decimal->n_digits = MOST_DIGITS + 1;
    else
        decimal->scale += (int)scale;
}

/* The exponent at AT; NULL where it has no digits. */
static const char *take_exponent(const char *at, Decimal *decimal)
{
    int exponent = 0;
    at++;
    bool is_negative = *at == '-';
    at += *at == '-' || *at == '+';
    if (!is_digit(*at))
        return NULL;
    for (; is_digit(*at); at++)
        exponent = exponent < MOST_EXPONENT ? 10 * exponent + (*at - '0') : exponent;
    add_scale(decimal, is_negative ? -exponent : exponent);
    return at;
}

#if LDBL_MANT_DIG == 64 && LDBL_MAX_EXP == 16384
/* With 64 bits both DIGITS and powers of ten up to 5^27 2^27 are exact, and what they give is
 * rounded once. Rounded again to 53 bits it is the nearest double unless it lies in the middle
 * between two: what was cut off then decides. */
static bool convert(const Decimal *decimal, double *value)
{
    static const long double POWERS[MOST_SCALE + 1] = {
        1e0L,  1e1L,  1e2L,  1e3L,  1e4L,  1e5L,  1e6L,  1e7L,  1e8L,  1e9L,
        1e10L, 1e11L, 1e12L, 1e13L, 1e14L, 1e15L, 1e16L, 1e17L, 1e18L, 1e19L,
        1e20L, 1e21L, 1e22L, 1e23L, 1e24L, 1e25L, 1e26L, 1e27L};
    const uint64_t cut = (1u << (64 - DBL_MANT_DIG)) - 1;
    uint64_t bits;
    int scale = decimal->scale;
    if (decimal->n_digits > MOST_DIGITS || scale > MOST_SCALE || scale < -MOST_SCALE)
        return false;
    long double exact = (long double)decimal->digits;
    long double wide = scale < 0 ? exact / POWERS[-scale] : exact * POWERS[scale];
    memcpy(&bits, &wide, sizeof bits);
    *value = (double)wide;
    return (bits & cut) != cut / 2 + 1;
}
#else
static bool convert(const Decimal *decimal, double *value)
{
    *value = (double)decimal->digits;
    return decimal->n_digits <= DBL_DIG && decimal->scale == 0;
}
#endif

bool json_number_read(const char **at, double *value)
{
    Decimal decimal = {0};
    const char *number = *at;
    const char *first = number + (*number == '-');
    const char *end = take_digits(first, &decimal);
    *at = end;
    if (end == first || (*first == '0' && end - first > 1))
        return false;
    if (*end == '.') {
        const char *fraction = end + 1;
        end = take_digits(fraction, &decimal);
        *at = end;
        if (end == fraction)
            return false;
        add_scale(&decimal, fraction - end);
    }
    if (*end == 'e' || *end == 'E')
        end = take_exponent(end, &decimal);
    if (end == NULL)
        return false;
    *at = end;
    if (!convert(&decimal, value)) {
        *value = strtod(number, NULL);
        return true;
    }
    *value = *number == '-' ? -*value : *value;
    return true;
}
