/* Packed weights and the kernels that multiply with them. */
#include "base/status.h"
#include "tests/support.h"

#include <math.h>
#include <stdlib.h>

#include "base/memory.h"
#include "exec/cpu/host_packed.h"
#include "tests/packed_maker.h"

static void packed_words_lie_each_in_a_place_of_its_own(void **unused)
{
    (void)unused;
    static const uint32_t SIZES[][2] = {{64, 64}, {128, 64}, {192, 128}, {320, 192}};
    for (size_t i = 0; i < sizeof SIZES / sizeof *SIZES; i++) {
        uint32_t rows = SIZES[i][0];
        uint32_t words = SIZES[i][1] / 8;
        bool *seen = calloc((size_t)rows * words, sizeof *seen);
        for (uint32_t row = 0; row < rows; row++)
            for (uint32_t word = 0; word < words; word++) {
                size_t at = packed_word_at(row, word, rows, SIZES[i][1]);
                assert_true(at % 16 == 0 && at / 16 < (size_t)rows * words && !seen[at / 16]);
                seen[at / 16] = true;
            }
        free(seen);
    }
    /* As exec/cuda/packed.h: blocks of 128 x 64, words swizzled by the row. */
    assert_int_equal(packed_word_at(3, 0, 256, 128), 3 * 128 + 3 * 16);
    assert_int_equal(packed_word_at(3, 8, 256, 128), 16384 + 3 * 128 + 3 * 16);
    assert_int_equal(packed_word_at(131, 1, 256, 128), 2 * 16384 + 3 * 128 + 2 * 16);
    assert_int_equal(packed_word_at(131, 9, 192, 128), 2 * 16384 + 8192 + 3 * 128 + 2 * 16);
}

static void every_kernel_gives_the_products_of_its_strip(void **unused)
{
    (void)unused;
    static const uint32_t INPUTS[] = {1, 2, 3, 4, 7, 16, 17, 31, 32, 33, 48, 50};
    enum { ROWS = 192, COLUMNS = 320 };
    static uint16_t matrix[ROWS * COLUMNS];
    static _Alignas(64) unsigned char packed[2 * ROWS * COLUMNS];
    static uint16_t plain[50 * COLUMNS];
    static uint16_t in[50 * COLUMNS];
    static float out[4 * 50 * STRIP_ROWS];
    uint64_t state = 3;
    size_t n_kernels;
    const PackedKernel *kernels = packed_kernels(&n_kernels);
    for (size_t i = 0; i < ROWS * COLUMNS; i++)
        matrix[i] = to_bf16(random_float(&state));
    for (size_t i = 0; i < 50 * COLUMNS; i++)
        plain[i] = to_bf16(random_float(&state));
    pack(matrix, ROWS, COLUMNS, packed);
    for (size_t k = 0; k < n_kernels; k++)
        for (size_t at = 0; at < sizeof INPUTS / sizeof *INPUTS; at++)
            for (uint32_t strip = 0; strip < ROWS / STRIP_ROWS; strip++) {
                uint32_t n = INPUTS[at];
                for (uint32_t i = 0; i < n; i++)
                    for (uint32_t c = 0; c < COLUMNS; c++)
                        in[packed_input_at(kernels[k].pairs, i, c, n, COLUMNS)] =
                            plain[i * COLUMNS + c];
                PackedStrip work = packed_strip(packed, ROWS, COLUMNS, strip);
                work.in = in;
                work.n = n;
                work.out = out;
                if (at % 2 == 1) /* as many as the block has from here on */
                    work.strips = (strip < 4 ? 4 : 6) - strip;
                kernels[k].multiply(&work);
                for (uint32_t i = 0; i < n; i++)
                    for (uint32_t r = 0; r < work.strips * STRIP_ROWS; r++) {
                        size_t place = (size_t)(r / STRIP_ROWS) * n * STRIP_ROWS +
                                       packed_output_at(r % STRIP_ROWS, i, n);
                        double sum = 0;
                        for (uint32_t c = 0; c < COLUMNS; c++)
                            sum +=
                                (double)from_bf16(matrix[(strip * STRIP_ROWS + r) * COLUMNS + c]) *
                                (double)from_bf16(plain[i * COLUMNS + c]);
                        if (fabs(sum - (double)out[place]) > 1e-3)
                            fail_msg("%s: %u inputs, strip %u, input %u, row %u: %g for %g",
                                     kernels[k].name, n, strip, i, r, (double)out[place], sum);
                    }
            }
}

int main(void)
{
    memory_install();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packed_words_lie_each_in_a_place_of_its_own),
        cmocka_unit_test(every_kernel_gives_the_products_of_its_strip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
