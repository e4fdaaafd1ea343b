/* Any bytes as a .npy file: refused, or its data is what follows the header. */
#include <stdlib.h>

#include "traces/npy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    Tensor tensor;
    if (npy_view("fuzz", data, bytes, &tensor) != OK)
        return 0;
    if ((const uint8_t *)tensor.data + tensor.bytes != data + bytes)
        abort();
    return 0;
}
