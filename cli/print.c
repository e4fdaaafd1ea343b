#include "cli/print.h"

#include <stdio.h>

#include "base/json.h"
#include "base/memory.h"
#include "exec/text/utf8.h"

Status print_json_begin(cJSON **json)
{
    *json = cJSON_CreateObject();
    return *json != NULL ? OK : fail_memory("JSON output", 0);
}

Status print_json_end(cJSON *json, Status filled)
{
    char *text = NULL;
    Status status = filled == OK ? json_print(json, true, &text) : filled;
    cJSON_Delete(json);
    if (status == OK)
        puts(text);
    mem_free(text);
    return status;
}

/* Appends TEXT as cJSON can hold it, and a zero. */
static Status make_string(Span text, ByteBuffer *shown)
{
    ByteBuffer mended = {0};
    Status status = utf8_append_mended(&mended, text);
    for (size_t i = 0; i < mended.bytes && status == OK; i++)
        status = mended.data[i] != 0 ? bytes_append(shown, &mended.data[i], 1)
                                     : utf8_append(shown, 0xFFFD);
    if (status == OK)
        status = bytes_append(shown, "", 1);
    bytes_free(&mended);
    return status;
}

Status print_add_bytes(cJSON *object, const char *key, Span text)
{
    ByteBuffer shown = {0};
    Status status = make_string(text, &shown);
    if (status == OK)
        status = json_add_text(object, key, (const char *)shown.data);
    bytes_free(&shown);
    return status;
}

Status print_push_bytes(cJSON *array, Span text)
{
    ByteBuffer shown = {0};
    Status status = make_string(text, &shown);
    if (status == OK)
        status = json_push(array, cJSON_CreateString((const char *)shown.data));
    bytes_free(&shown);
    return status;
}
