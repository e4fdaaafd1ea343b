#include "base/base64.h"

#include <stdint.h>
#include <string.h>

static int value_of(char digit)
{
    static const char DIGITS[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *found = digit != '\0' ? strchr(DIGITS, digit) : NULL;
    return found != NULL ? (int)(found - DIGITS) : -1;
}

bool base64_decode(const char *text, size_t length, unsigned char *out, size_t *bytes)
{
    uint32_t bits = 0;
    size_t digits = length;
    *bytes = 0;
    while (digits > 0 && length - digits < 2 && text[digits - 1] == '=')
        digits--;
    if (length % 4 != 0 || digits == 0)
        return false;
    for (size_t i = 0; i < digits; i++) {
        int value = value_of(text[i]);
        if (value < 0)
            return false;
        bits = bits << 6 | (uint32_t)value;
        if (i % 4 != 0)
            out[(*bytes)++] = (unsigned char)(bits >> (6 - 2 * (i % 4)));
    }
    return true;
}
