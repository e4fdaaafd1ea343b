/* The checksum of a row of a trace or a study: CRC-32C (base/crc32c.h, started with 0) over the
 * row's columns other than crc, in schema order. Each column adds one tag byte and its value:
 *
 *   0  NULL      nothing
 *   1  integer   8 bytes, two's complement, little-endian
 *   2  text      length in bytes as 8 bytes little-endian, then the UTF-8 bytes
 *   3  blob      length in bytes as 8 bytes little-endian, then the bytes
 *   4  real      8 bytes, IEEE 754, little-endian (studies; a trace has none)
 *
 * The column crc holds the result as a number from 0 to 2^32 - 1. Each function continues CRC with
 * one column. */
#ifndef TRACES_ROWCRC_H
#define TRACES_ROWCRC_H

#include <stddef.h>
#include <stdint.h>

uint32_t rowcrc_null(uint32_t crc);
uint32_t rowcrc_integer(uint32_t crc, int64_t value);
uint32_t rowcrc_real(uint32_t crc, double value);
/* TEXT[BYTES] */
uint32_t rowcrc_text(uint32_t crc, const char *text, size_t bytes);
uint32_t rowcrc_blob(uint32_t crc, const void *data, size_t bytes);
/* A zero-terminated text, or NULL. */
uint32_t rowcrc_text_or_null(uint32_t crc, const char *text);

#endif
