/* CRC-32C (Castagnoli, polynomial 0x1EDC6F41 reflected), as in RFC 3720: crc32c(0, "123456789", 9)
 * == 0xE3069283. Uses the SSE 4.2 instruction where the processor has it. */
#ifndef BASE_CRC32C_H
#define BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Continues CRC (0 to start) over BYTES bytes. */
uint32_t crc32c(uint32_t crc, const void *data, size_t bytes);

#endif
