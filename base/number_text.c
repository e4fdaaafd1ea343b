#include "base/number_text.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

const char *number_text(uint64_t value, char text[NUMBER_BYTES])
{
    char digits[32];
    int count = snprintf(digits, sizeof digits, "%llu", (unsigned long long)value);
    char *at = text;
    for (int i = 0; i < count; i++) {
        if (i > 0 && (count - i) % 3 == 0)
            *at++ = ',';
        *at++ = digits[i];
    }
    *at = '\0';
    return text;
}

const char *bytes_text(uint64_t bytes, char text[NUMBER_BYTES])
{
    static const char *const UNITS[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double value = (double)bytes;
    size_t unit = 0;
    for (; value >= 1024 && unit < 6; unit++)
        value /= 1024;
    int places = unit == 0 || value >= 1000 ? 0 : value >= 100 ? 1 : 2;
    snprintf(text, NUMBER_BYTES, "%.*f %s", places, value, UNITS[unit]);
    return text;
}

const char *real_text(double value, char text[NUMBER_BYTES])
{
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, NUMBER_BYTES, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    return text;
}

const char *ratio_text(uint64_t part, uint64_t whole, char text[NUMBER_BYTES])
{
    if (whole == 0)
        snprintf(text, NUMBER_BYTES, "-");
    else
        snprintf(text, NUMBER_BYTES, "%.4f", (double)part / (double)whole);
    return text;
}

const char *duration_text(uint64_t duration_ns, char text[NUMBER_BYTES])
{
    double value = (double)duration_ns;
    if (value < 1e3)
        snprintf(text, NUMBER_BYTES, "%.0f ns", value);
    else if (value < 1e6)
        snprintf(text, NUMBER_BYTES, "%.3g us", value / 1e3);
    else if (value < 1e9)
        snprintf(text, NUMBER_BYTES, "%.3g ms", value / 1e6);
    else
        snprintf(text, NUMBER_BYTES, value < 1e10 ? "%.2f s" : "%.1f s", value / 1e9);
    return text;
}
