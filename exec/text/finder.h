/* What splits and replaces look for: a pattern, a string, or characters of a class. */
#ifndef EXEC_TEXT_FINDER_H
#define EXEC_TEXT_FINDER_H

#include "exec/text/pattern.h"

typedef struct {
    Pattern *pattern;            /* or */
    bool (*is_member)(uint32_t); /* each character by itself; or */
    ByteBuffer literal;          /* not empty */
} Finder;

/* AT is the object {"String": ...} or {"Regex": ...}. */
Status finder_load(const JsonAt *at, Finder *finder);
void finder_free(Finder *finder);

/* Text cut into the matches of a finder and what lies between them: all of the text, in order. */
typedef struct {
    const Finder *finder;
    Span text;
    size_t at;         /* end of the last segment */
    size_t from;       /* where the next search starts */
    size_t last_match; /* its end; SIZE_MAX: none yet */
    bool held;         /* a match that was found and waits for the text before it to be taken */
    size_t held_start;
    size_t held_end;
    bool done;
} Segments;

typedef struct {
    size_t start;
    size_t end; /* may be START: an empty match cuts too */
    bool is_match;
} Segment;

void segments_start(Segments *segments, const Finder *finder, Span text);
/* The next segment; STATUS_END after the last. */
Status segments_next(Segments *segments, Segment *segment);

#endif
