/* Which page size of SQLite suits the rows of a trace. */
#ifndef TRACES_PAGE_SIZE_H
#define TRACES_PAGE_SIZE_H

#include <stddef.h>
#include <stdint.h>

/* The page size, from 512 to 65536 bytes, at which STEPS times N rows, each in a table of its own,
 * of ROW_BYTES[n] bytes (the record with its header), take least room together with the N_TABLES
 * tables of the file, which have a page at least. Of sizes that differ by less than half a percent
 * the largest, since reading costs a call a page. */
uint32_t page_size_for(const uint64_t *row_bytes, size_t n, uint64_t steps, uint32_t n_tables);

#endif
