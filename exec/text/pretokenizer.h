/* Cuts text into the words that a model sees, as "pre_tokenizer" of a tokenizer.json says.
 *
 * Not thread-safe. */
#ifndef EXEC_TEXT_PRETOKENIZER_H
#define EXEC_TEXT_PRETOKENIZER_H

#include "exec/text/finder.h"

typedef struct PreTokenizer PreTokenizer;

/* AT may be null: then all text is one word. Fails with ERR_INPUT for what is not supported. */
Status pretokenizer_load(const JsonAt *at, PreTokenizer **pretokenizer);
void pretokenizer_free(PreTokenizer *pretokenizer);
/* True when the words are raw bytes that stand for characters of the byte alphabet. */
bool pretokenizer_is_byte_level(const PreTokenizer *pretokenizer);

/* Takes one word, not empty, which is valid during the call. */
typedef Status (*WordSink)(void *argument, Span word);

/* Gives the words of TEXT to SINK in order. AT_START: TEXT begins where the input began, which some
 * pre-tokenizers mark. */
Status pretokenizer_run(PreTokenizer *pretokenizer, Span text, bool at_start, WordSink sink,
                        void *argument);

#endif
