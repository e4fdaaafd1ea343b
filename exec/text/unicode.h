/* Properties and normalization forms of Unicode, over utf8proc. */
#ifndef EXEC_TEXT_UNICODE_H
#define EXEC_TEXT_UNICODE_H

#include <stdbool.h>

#include "exec/text/buffers.h"

/* White_Space */
bool unicode_is_space(uint32_t code_point);
/* General category N: Nd, Nl, No */
bool unicode_is_numeric(uint32_t code_point);
/* General category P, and the ASCII symbols that C's ispunct() counts: $ + < = > ^ ` | ~ */
bool unicode_is_punctuation(uint32_t code_point);
/* General category M */
bool unicode_is_mark(uint32_t code_point);
/* Alphabetic, marks, Nd, Pc and the two joiners: \w of Rust's regular expressions */
bool unicode_is_word(uint32_t code_point);

/* Appends TEXT in lower case, each code point by itself (no context, as final sigma would need). */
Status unicode_append_lower(ByteBuffer *buffer, Span text);

typedef enum { UNICODE_NFC, UNICODE_NFD, UNICODE_NFKC, UNICODE_NFKD } UnicodeForm;

/* Code points of one piece while it is normalized; kept between calls for its room. */
typedef struct {
    int32_t *code_points;
    size_t count;
    size_t room;
} UnicodeScratch;

void unicode_scratch_free(UnicodeScratch *scratch);
/* Appends TEXT (valid UTF-8) in FORM. Linear in the length of TEXT, whatever it holds. */
Status unicode_append_normalized(ByteBuffer *buffer, Span text, UnicodeForm form,
                                 UnicodeScratch *scratch);

/* Bytes of the extended grapheme cluster (UAX #29) at the start of TEXT, which is not empty. */
size_t unicode_grapheme(Span text);

#endif
