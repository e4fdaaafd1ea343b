/* Numbers as people read them. */
#ifndef BASE_NUMBER_TEXT_H
#define BASE_NUMBER_TEXT_H

#include <stdint.h>

/* Room for any of the texts below. */
enum { NUMBER_BYTES = 48 };

/* "12,345,678" */
const char *number_text(uint64_t value, char text[NUMBER_BYTES]);
/* "3.42 MiB": three or four digits and a binary unit. */
const char *bytes_text(uint64_t bytes, char text[NUMBER_BYTES]);
/* The shortest text that reads back as VALUE: "0.1", "1e-06". */
const char *real_text(double value, char text[NUMBER_BYTES]);
/* PART / WHOLE to four places, "-" when WHOLE is 0. */
const char *ratio_text(uint64_t part, uint64_t whole, char text[NUMBER_BYTES]);
/* "12.3 s", "1.23 s", "4.56 ms", ... */
const char *duration_text(uint64_t duration_ns, char text[NUMBER_BYTES]);

#endif
