/* Base64 (RFC 4648, section 4), read strictly. */
#ifndef BASE_BASE64_H
#define BASE_BASE64_H

#include <stdbool.h>
#include <stddef.h>

/* Decodes LENGTH characters of TEXT into OUT, which has room for 3 / 4 of them and may be TEXT, and
 * sets *BYTES. False, with OUT undefined, where it is empty, has a character that is none of it, or
 * is not padded to whole groups of four. */
bool base64_decode(const char *text, size_t length, unsigned char *out, size_t *bytes);

#endif
