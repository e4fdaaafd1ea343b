/* Command lines: GNU long options by table.
 *
 * A command lists its options and where their values go; options_parse() fills them in or fails
 * with one line that ends in a hint at --help. Values point into argv, so argv must outlive them.
 * Nothing is kept between calls. */
#ifndef CLI_OPTIONS_H
#define CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef enum {
    OPTION_FLAG,       /* bool *: takes no argument */
    OPTION_TEXT,       /* const char ** */
    OPTION_LIST,       /* OptionList *: may be repeated */
    OPTION_U32,        /* uint32_t *, least to most */
    OPTION_U64,        /* uint64_t *, least to most */
    OPTION_F64,        /* double *, low to high */
    OPTION_CHOICE,     /* int *: index into choices */
    OPTION_POSITIONAL, /* const char **: an argument without --name; NAME is shown in the usage */
    OPTION_POSITIONALS /* OptionList *: all that are left of these */
} OptionKind;

typedef struct {
    const char *name;     /* without the dashes: "trace" */
    const char *argument; /* how help names the value: "FILE"; NULL for flags */
    const char *help;
    OptionKind kind;
    bool required;
    bool writes;       /* OPTION_TEXT: a file that is replaced, which no other option may name */
    const char *grows; /* but this one may: its file is written again with more in it */
    char letter;       /* "-o FILE" says the same as "--out FILE"; 0: no such form */
    void *value;
    uint64_t least; /* OPTION_U32, OPTION_U64 */
    uint64_t most;
    double low; /* OPTION_F64 */
    double high;
    const char *const *choices; /* OPTION_CHOICE, NULL-terminated */
} Option;

/* The rows of a table, by kind. The last argument is where the value goes; what else is to be set
 * may follow it: TEXT_OPTION("out", "FILE", "the trace", &out, .required = true). */
/* clang-format off */
#define FLAG_OPTION(title, says, ...)                                                              \
    {.kind = OPTION_FLAG, .name = (title), .help = (says), .value = __VA_ARGS__}
#define TEXT_OPTION(title, takes, says, ...)                                                       \
    {.kind = OPTION_TEXT, .name = (title), .argument = (takes), .help = (says),                    \
     .value = __VA_ARGS__}
#define LIST_OPTION(title, takes, says, ...)                                                       \
    {.kind = OPTION_LIST, .name = (title), .argument = (takes), .help = (says),                    \
     .value = __VA_ARGS__}
#define U32_OPTION(title, takes, says, from, to, ...)                                              \
    {.kind = OPTION_U32, .name = (title), .argument = (takes), .help = (says), .least = (from),    \
     .most = (to), .value = __VA_ARGS__}
#define U64_OPTION(title, takes, says, from, to, ...)                                              \
    {.kind = OPTION_U64, .name = (title), .argument = (takes), .help = (says), .least = (from),    \
     .most = (to), .value = __VA_ARGS__}
#define F64_OPTION(title, takes, says, from, to, ...)                                              \
    {.kind = OPTION_F64, .name = (title), .argument = (takes), .help = (says), .low = (from),      \
     .high = (to), .value = __VA_ARGS__}
#define CHOICE_OPTION(title, takes, says, among, ...)                                              \
    {.kind = OPTION_CHOICE, .name = (title), .argument = (takes), .help = (says),                  \
     .choices = (among), .value = __VA_ARGS__}
#define POSITIONAL_OPTION(title, says, ...)                                                        \
    {.kind = OPTION_POSITIONAL, .name = (title), .help = (says), .value = __VA_ARGS__}
#define POSITIONALS_OPTION(title, says, ...)                                                       \
    {.kind = OPTION_POSITIONALS, .name = (title), .help = (says), .value = __VA_ARGS__}
/* clang-format on */

/* Options that many commands have; FLAG is a bool *, PATH a const char **. */
#define JSON_OPTION(flag) FLAG_OPTION("json", "print one JSON document", flag)
#define TRACE_OPTION(path) POSITIONAL_OPTION("TRACE", "the trace", path, .required = true)
#define PROGRESS_OPTION(flag)                                                                      \
    FLAG_OPTION("progress", "a line every ten seconds, also where stderr is no terminal", flag)

/* The values of a repeated option, in order. Zero-initialise; free with option_list_free(). */
typedef struct {
    const char **items; /* [count] */
    size_t count;
} OptionList;

/* TEXT must outlive LIST. */
Status option_list_append(OptionList *list, const char *text);
void option_list_free(OptionList *list);

enum { OPTIONS_MAX = 64 };

typedef struct {
    const char *command; /* "simulate" */
    const char *summary; /* what it does; a sentence or more, and lines that begin with a space */
    const char *example; /* one command line, or several lines */
    const Option *options;
    size_t n_options; /* at most OPTIONS_MAX */
} OptionTable;

/* Parses ARGV[1] to ARGV[argc - 1] (ARGV[0] is the command's name). Values of options that are not
 * given are left as they are. `--` ends the options. Returns STATUS_END after printing the usage
 * for --help, so that TRY() leaves the command with exit status 0; ERR_USAGE for an option that is
 * unknown, missing, given twice or malformed, and for one that writes over a file that another one
 * names; ERR_MEMORY. */
Status options_parse(const OptionTable *table, int argc, char **argv);

/* Fails with ERR_USAGE and the hint at --help. For what the table cannot express. */
Status options_fail(const OptionTable *table, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
