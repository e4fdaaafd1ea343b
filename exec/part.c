#include <assert.h>

#include "exec/checkpoint.h"
#include "exec/synthetic.h"

Part part_of(const Tensor *tensor)
{
    assert(tensor->rank == 1 || tensor->rank == 2);
    uint32_t columns = (uint32_t)tensor->shape[tensor->rank - 1];
    return (Part){.tensor = *tensor,
                  .rows = tensor->rank == 2 ? (uint32_t)tensor->shape[0] : 1,
                  .columns = columns,
                  .row_step = columns,
                  .column_step = 1};
}

uint64_t part_bytes(const Part *part)
{
    if (part->tensor.data == NULL && part->tensor.synthetic == NULL)
        return 0;
    return (uint64_t)part->rows * part->columns * dtype_bytes(part->tensor.dtype);
}

void tensor_floats(const Tensor *tensor, uint64_t first, size_t count, float *out)
{
    if (tensor->synthetic != NULL)
        synthetic_values(tensor->synthetic, first, count, out);
    else
        tensor_to_f32(tensor, first, count, out);
}

void part_row(const Part *part, uint32_t row, float *out)
{
    uint64_t first = part->first + row * part->row_step;
    if (part->column_step == 1) {
        tensor_floats(&part->tensor, first, part->columns, out);
        return;
    }
    if (part->tensor.synthetic != NULL) {
        synthetic_strided(part->tensor.synthetic, first, part->column_step, part->columns, out);
        return;
    }
    for (uint32_t i = 0; i < part->columns; i++)
        tensor_to_f32(&part->tensor, first + i * part->column_step, 1, out + i);
}
