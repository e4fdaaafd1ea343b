/* Any bytes as a file of torch.save(): refused, or every tensor lies within them and every text
 * too.
 */
#include <stdlib.h>

#include "traces/pickle.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void check_inside(const uint8_t *data, size_t bytes, const void *part, size_t part_bytes)
{
    const uint8_t *from = part;
    if (part_bytes > 0 && (from < data || part_bytes > (size_t)(data + bytes - from)))
        abort();
}

/* Values may hold each other, so it goes no deeper than the dumps that are read. */
static void walk(const PickleValue *value, int depth, const uint8_t *data, size_t bytes)
{
    if (value->kind == PICKLE_TENSOR)
        check_inside(data, bytes, value->tensor->data, value->tensor->bytes);
    if (value->kind == PICKLE_TEXT)
        check_inside(data, bytes, value->text, value->length);
    if (value->kind != PICKLE_LIST && value->kind != PICKLE_DICT)
        return;
    for (size_t i = 0; i < value->count && i < 64 && depth < 4; i++)
        walk(value->items[i], depth + 1, data, bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    Pickle *pickle;
    if (pickle_view("fuzz", data, bytes, &pickle) != OK)
        return 0;
    walk(pickle_root(pickle), 0, data, bytes);
    (void)pickle_get(pickle_root(pickle), "records");
    pickle_free(pickle);
    return 0;
}
