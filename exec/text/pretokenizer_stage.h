/* The steps of a pre-tokenizer: shared by its loader and its run. */
#ifndef EXEC_TEXT_PRETOKENIZER_STAGE_H
#define EXEC_TEXT_PRETOKENIZER_STAGE_H

#include "exec/text/pretokenizer.h"

/* What becomes of the matches (delimiters) of a split. */
typedef enum {
    SPLIT_REMOVED,
    SPLIT_ISOLATED,
    SPLIT_MERGED_WITH_PREVIOUS,
    SPLIT_MERGED_WITH_NEXT,
    SPLIT_CONTIGUOUS
} SplitBehavior;

typedef enum { PREFIX_NEVER, PREFIX_FIRST, PREFIX_ALWAYS } PrefixScheme;

/* First replaces the spaces (when REPLACEMENT is not empty), then puts PREFIX in front, then splits
 * (when there is a finder). */
typedef struct {
    ByteBuffer replacement;
    ByteBuffer prefix;
    PrefixScheme scheme; /* where the prefix goes, when it is not there already */
    bool splits;
    Finder finder;
    bool invert; /* what is between the matches is the delimiter */
    SplitBehavior behavior;
    ByteBuffer text; /* of the piece in work, when it was changed */
} Stage;

enum { STAGES_MAX = 16 };

struct PreTokenizer {
    Stage stages[STAGES_MAX];
    size_t n_stages;
    bool byte_level;
};

#endif
