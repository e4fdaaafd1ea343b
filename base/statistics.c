#include "base/statistics.h"

#include <math.h>
#include <stdlib.h>

#define COMPARE(name, type)                                                                        \
    int name(const void *left, const void *right)                                                  \
    {                                                                                              \
        type a = *(const type *)left;                                                              \
        type b = *(const type *)right;                                                             \
        return (a > b) - (a < b);                                                                  \
    }

COMPARE(compare_u32, uint32_t)
COMPARE(compare_u64, uint64_t)
COMPARE(compare_f64, double)

double median_u64(uint64_t *values, size_t n)
{
    if (n == 0)
        return 0;
    qsort(values, n, sizeof *values, compare_u64);
    return ((double)values[(n - 1) / 2] + (double)values[n / 2]) / 2;
}

double median_f64(double *values, size_t n)
{
    if (n == 0)
        return 0;
    qsort(values, n, sizeof *values, compare_f64);
    return (values[(n - 1) / 2] + values[n / 2]) / 2;
}

double variation_f64(const double *values, size_t n)
{
    double mean = 0;
    double squares = 0;
    for (size_t i = 0; i < n; i++)
        mean += values[i] / (double)n;
    for (size_t i = 0; i < n; i++)
        squares += (values[i] - mean) * (values[i] - mean);
    return n > 1 && mean != 0 ? sqrt(squares / (double)(n - 1)) / fabs(mean) : 0;
}
