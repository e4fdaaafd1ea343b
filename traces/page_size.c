#include "traces/page_size.h"

enum {
    LEAST = 512,
    MOST = 65536,
    PAGE_HEADER = 8,
    CELL_POINTER = 2,
    OVERFLOW_LINK = 4, /* of an overflow page, and of a cell that has one */
};

/* The bytes of a number in SQLite's variable-length form. */
static uint64_t varint_bytes(uint64_t value)
{
    uint64_t bytes = 1;
    while ((value >>= 7) > 0)
        bytes++;
    return bytes;
}

/* The bytes of pages that one of so many rows takes. The file format of SQLite, "B-tree Cell
 * Format": a record that leaves no room for others on a page goes on in pages of its own, as far as
 * it fills them, or to the last page where what remains is too long for the leaf. */
static double room_of(uint64_t row_bytes, uint64_t rows, uint32_t page)
{
    uint64_t most_local = page - 35;
    uint64_t least_local = (page - 12) * 32 / 255 - 23;
    uint64_t overflow_page = page - OVERFLOW_LINK;
    uint64_t local = row_bytes;
    uint64_t overflow = 0;
    if (row_bytes > most_local) {
        local = least_local + (row_bytes - least_local) % overflow_page;
        local = local <= most_local ? local : least_local;
        overflow = (row_bytes - local + overflow_page - 1) / overflow_page;
    }
    uint64_t cell = CELL_POINTER + varint_bytes(row_bytes) + varint_bytes(rows) + local +
                    (overflow > 0 ? OVERFLOW_LINK : 0);
    uint64_t cells = (page - PAGE_HEADER) / cell;
    return (double)(overflow * page) + (double)page / (double)(cells > 0 ? cells : 1);
}

uint32_t page_size_for(const uint64_t *row_bytes, size_t n, uint64_t steps, uint32_t n_tables)
{
    double room[MOST / LEAST + 1] = {0};
    double least = 0;
    for (uint32_t page = LEAST; page <= MOST; page *= 2) {
        double *sum = &room[page / LEAST];
        for (size_t i = 0; i < n; i++)
            *sum += room_of(row_bytes[i], steps, page) * (double)steps;
        *sum += (double)page * n_tables;
        least = page == LEAST || *sum < least ? *sum : least;
    }
    uint32_t page = MOST;
    while (room[page / LEAST] > least * 1.005)
        page /= 2;
    return page;
}
