/* Tables of points. */
#ifndef TESTS_POINTS_MAKER_H
#define TESTS_POINTS_MAKER_H

#include "tests/reference_buffer.h"

/* A table of one layer, 7, with POINTS[n] of [rows, ns]. */
static inline PlanTable *points_table(const uint32_t (*points)[2], uint32_t n)
{
    PlanTable *table;
    assert_ok(plan_table_new(TABLE_ROWS, 1, n, 2 * n, &table));
    PlanTableParts parts = plan_table_parts(table);
    parts.layer[0] = 7;
    parts.first_row[1] = n;
    for (uint32_t i = 0; i < n; i++) {
        parts.first_value[i + 1] = 2 * (i + 1);
        memcpy(parts.value + 2 * i, points[i], sizeof points[i]);
    }
    return table;
}

#endif
