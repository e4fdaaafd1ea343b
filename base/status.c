#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MESSAGE_BYTES = 1024 };

static _Thread_local char message[MESSAGE_BYTES];

/* Puts TEXT into the record: one line, and nothing that a terminal obeys, whatever a file's name or
 * SQLite's words about a damaged schema hold. */
static void record(const char *text)
{
    size_t i = 0;
    for (; text[i] != '\0' && i < MESSAGE_BYTES - 1; i++) {
        unsigned char c = (unsigned char)text[i];
        message[i] = c < 0x20 || c == 0x7F ? '?' : text[i];
    }
    message[i] = '\0';
}

Status fail(Status status, const char *format, ...)
{
    char text[MESSAGE_BYTES]; /* arguments may point into the record itself */
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    record(text);
    return status;
}

Status fail_in(Status status, const char *format, ...)
{
    if (status == OK || status == STATUS_END)
        return status;
    char text[MESSAGE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    int used = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (used < 0 || used >= MESSAGE_BYTES - 3)
        return status;
    size_t room = sizeof text - 3 - (size_t)used;
    size_t length = strnlen(message, room);
    memcpy(text + used, ": ", 2);
    memcpy(text + used + 2, message, length);
    text[(size_t)used + 2 + length] = '\0';
    record(text);
    return status;
}

Status fail_as(Status status, const char *prefix, const char *name)
{
    size_t length = strlen(prefix);
    const char *end = strncmp(message, prefix, length) == 0 ? strstr(message + length, ": ") : NULL;
    if (status == OK || status == STATUS_END || end == NULL)
        return status;
    return fail(status, "%s%s", name, end);
}

Status fail_memory(const char *what, size_t bytes)
{
    return fail(ERR_MEMORY, "%s: out of memory: %zu bytes wanted", what, bytes);
}

const char *error_message(void)
{
    return message;
}

void error_clear(void)
{
    message[0] = '\0';
}

int status_exit_code(Status status)
{
    switch (status) {
    case OK:
    case STATUS_END:
        return 0;
    case ERR_USAGE:
    case ERR_INPUT:
    case ERR_PLAN:
    case ERR_NOT_A_TRACE:
    case ERR_SCHEMA:
    case ERR_CORRUPT:
    case ERR_OUTPUT:
    case ERR_UNSUPPORTED:
        return 2;
    case ERR_IO:
    case ERR_MEMORY:
    case ERR_MISMATCH:
    case ERR_INTERRUPTED:
        return 1;
    }
    return 1;
}
