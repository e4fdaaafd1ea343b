#include "exec/text/buffers.h"

#include <string.h>

#include "base/memory.h"

Status bytes_reserve(ByteBuffer *buffer, size_t more)
{
    return mem_reserve(&buffer->data, &buffer->room, buffer->bytes, more, 1, "text");
}

Status ids_reserve(IdBuffer *buffer, size_t more)
{
    return mem_reserve(&buffer->ids, &buffer->room, buffer->count, more, sizeof *buffer->ids,
                       "text");
}

Status bytes_append(ByteBuffer *buffer, const void *data, size_t bytes)
{
    TRY(bytes_reserve(buffer, bytes));
    if (bytes > 0)
        memcpy(buffer->data + buffer->bytes, data, bytes);
    buffer->bytes += bytes;
    return OK;
}

Status ids_append(IdBuffer *buffer, const uint32_t *ids, size_t count)
{
    TRY(ids_reserve(buffer, count));
    if (count > 0)
        memcpy(buffer->ids + buffer->count, ids, count * sizeof *ids);
    buffer->count += count;
    return OK;
}

Status ids_push(IdBuffer *buffer, uint32_t id)
{
    TRY(ids_reserve(buffer, 1));
    buffer->ids[buffer->count++] = id;
    return OK;
}

void bytes_free(ByteBuffer *buffer)
{
    mem_free(buffer->data);
    *buffer = (ByteBuffer){0};
}

void ids_free(IdBuffer *buffer)
{
    mem_free(buffer->ids);
    *buffer = (IdBuffer){0};
}

Span bytes_span(const ByteBuffer *buffer, size_t from)
{
    return (Span){.data = buffer->data != NULL ? buffer->data + from : NULL,
                  .bytes = buffer->bytes - from};
}

Span span_of(const char *text)
{
    return (Span){.data = (const unsigned char *)text, .bytes = strlen(text)};
}
