/* Any bytes as a safetensors file: refused, or every tensor lies within them. The bytes are taken
 * as they are, and a second time with a header size that fits, so that mutations reach the header.
 */
#include <stdlib.h>
#include <string.h>

#include "traces/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void check_file(const uint8_t *data, size_t bytes)
{
    SafeTensors *file = NULL;
    if (safetensors_view("fuzz", data, bytes, &file) != OK)
        return;
    for (size_t i = 0; i < safetensors_count(file); i++) {
        const Tensor *tensor = safetensors_at(file, i);
        const uint8_t *from = tensor->data;
        if (from < data || tensor->bytes > (size_t)(data + bytes - from) ||
            safetensors_find(file, tensor->name) != tensor)
            abort();
        if (tensor->dtype == DTYPE_F32 || tensor->dtype == DTYPE_F16 || tensor->dtype == DTYPE_BF16)
            (void)tensor_check_finite(tensor, "fuzz");
    }
    safetensors_close(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    check_file(data, bytes);
    if (bytes < 2)
        return 0;
    size_t data_bytes = data[0] % (bytes - 1);
    size_t header_bytes = bytes - 1 - data_bytes;
    uint8_t *file = malloc(8 + bytes - 1);
    if (file == NULL)
        return 0;
    for (int i = 0; i < 8; i++)
        file[i] = (uint8_t)((uint64_t)header_bytes >> 8 * i);
    memcpy(file + 8, data + 1, bytes - 1);
    check_file(file, 8 + bytes - 1);
    free(file);
    return 0;
}
