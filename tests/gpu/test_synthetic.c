/* Made-up weights are the same on the device as on the host, bit for bit. */
#include "tests/gpu/gpu_support.h"

#include <string.h>

#include "exec/cuda/synthetic.h"

enum { ROWS = 37, COLUMNS = 301 };

static void assert_same(const SyntheticPart *part)
{
    static float values[ROWS * COLUMNS];
    static uint16_t halves[ROWS * COLUMNS];
    const OpsQueue queue = gpu_queue(COMPUTE_F32);
    Floats out = gpu_result((size_t)ROWS * COLUMNS);
    for (int bf16 = 0; bf16 < 2; bf16++) {
        assert_ok(synthetic_store(part, bf16 != 0, out.device, queue.stream));
        assert_int_equal(cudaStreamSynchronize(queue.stream), cudaSuccess);
        assert_int_equal(cudaMemcpy(bf16 ? (void *)halves : (void *)values, out.device,
                                    bf16 ? sizeof halves : sizeof values, cudaMemcpyDeviceToHost),
                         cudaSuccess);
        for (uint32_t r = 0; r < ROWS; r++)
            for (uint32_t c = 0; c < COLUMNS; c++) {
                float wanted = synthetic_value(part->tensor, part->first + r * part->row_step +
                                                                 c * part->column_step);
                float found = values[r * COLUMNS + c];
                if (bf16) {
                    uint32_t bits = (uint32_t)halves[r * COLUMNS + c] << 16;
                    memcpy(&found, &bits, sizeof found);
                }
                assert_true(found == wanted);
            }
    }
    gpu_reset();
}

static void device_and_host_make_the_same_bits(void **unused)
{
    (void)unused;
    const Synthetic matrix = synthetic_make("model.layers.7.mlp.experts.3.up_proj.weight", 0, 0.02);
    const Synthetic norm = synthetic_make("model.norm.weight", 1, 0);
    assert_same(&(SyntheticPart){matrix, 0, COLUMNS, 1, ROWS, COLUMNS});
    assert_same(&(SyntheticPart){matrix, (uint64_t)5 << 33, 2, 2 * ROWS, ROWS, COLUMNS});
    assert_same(&(SyntheticPart){norm, 0, COLUMNS, 1, ROWS, COLUMNS});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(device_and_host_make_the_same_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
