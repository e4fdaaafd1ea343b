/* What repeated measurements come to. */
#ifndef BASE_STATISTICS_H
#define BASE_STATISTICS_H

#include <stddef.h>
#include <stdint.h>

/* The order of two numbers, for qsort() and bsearch(): the least first. */
int compare_u32(const void *left, const void *right);
int compare_u64(const void *left, const void *right);
int compare_f64(const void *left, const void *right);

/* The middle of VALUES[n], which it sorts, or the mean of the middle two; 0 of none. */
double median_u64(uint64_t *values, size_t n);
double median_f64(double *values, size_t n);

/* The coefficient of variation: the sample's standard deviation as a share of its mean. 0 of fewer
 * than two, or of a mean of 0. */
double variation_f64(const double *values, size_t n);

#endif
