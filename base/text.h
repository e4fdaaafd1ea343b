/* Small functions of zero-terminated texts. */
#ifndef BASE_TEXT_H
#define BASE_TEXT_H

#include <stdbool.h>
#include <string.h>

static inline bool text_ends_in(const char *text, const char *end)
{
    size_t bytes = strlen(text);
    size_t tail = strlen(end);
    return bytes >= tail && strcmp(text + bytes - tail, end) == 0;
}

#endif
