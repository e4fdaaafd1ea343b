#include "cli/byte_size.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    double bytes;
} UNITS[] = {{"", 1},         {"B", 1},    {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30},
             {"TiB", 0x1p40}, {"kB", 1e3}, {"MB", 1e6},     {"GB", 1e9},     {"TB", 1e12}};

Status byte_size(const OptionTable *table, const char *option, const char *text, double *bytes)
{
    char *end = NULL;
    double number = strspn(text, "0123456789.") > 0 ? strtod(text, &end) : 0;
    for (size_t i = 0; end != NULL && i < sizeof UNITS / sizeof UNITS[0]; i++) {
        if (strcmp(end, UNITS[i].name) != 0)
            continue;
        *bytes = floor(number * UNITS[i].bytes);
        if (*bytes >= 1 && *bytes <= 0x1p53)
            return OK;
    }
    return options_fail(table, "--%s: '%s' is no size, as 80GiB, 500MB or bytes are", option, text);
}
