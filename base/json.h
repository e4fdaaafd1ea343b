/* Strict JSON over cJSON, and typed reading that names the path of what is wrong.
 *
 * cJSON alone accepts trailing text, duplicate keys, infinite numbers and invalid UTF-8;
 * json_parse() refuses them. A number is the double that is nearest to it. Errors read "FILE: PATH:
 * WHY", e.g. "plan.json: buffer.slots: 0, allowed is 1 to 4294967295". */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { JSON_MAX_DEPTH = 64, JSON_PLAN_BYTES = 1 << 20 };

/* Parses BYTES of TEXT (TEXT[BYTES] must be 0). The caller frees *ROOT with cJSON_Delete. Fails
 * with ERR_INPUT. */
Status json_parse(const char *text, size_t bytes, const char *file, cJSON **root);
/* The same for one line of a file, both of which PLACE names: errors then begin "PLACE: ". */
Status json_parse_line(const char *line, size_t bytes, const char *place, cJSON **root);
/* Reads at most LIMIT bytes of PATH and parses them. */
Status json_load(const char *path, size_t limit, cJSON **root);
/* NODE as text (mem_free), indented or without any space. A number reads back as the same double;
 * cJSON's own printing keeps 15 digits. */
Status json_print(const cJSON *node, bool indented, char **text);
/* Writes NODE, indented, as PATH, atomically. */
Status json_save(const cJSON *node, const char *path);

/* A value and where it stands. FILE must outlive it. */
typedef struct {
    const cJSON *node;
    const char *file;
    char path[160];
} JsonAt;

JsonAt json_root(const cJSON *node, const char *file);
/* Finds the member KEY of the object PARENT; false when absent or when PARENT is no object. */
bool json_find(const JsonAt *parent, const char *key, JsonAt *member);
/* The same; a member that is null counts as absent. */
bool json_given(const JsonAt *parent, const char *key, JsonAt *member);
/* The same as json_find(), but absent is an error. */
Status json_need(const JsonAt *parent, const char *key, JsonAt *member);
JsonAt json_item(const JsonAt *array, const cJSON *item, size_t index);

/* Fails unless AT is an object whose keys are all among KEYS (NULL-terminated). */
Status json_only_keys(const JsonAt *at, const char *const *keys);
/* Whole numbers only, below 2^53: from there on a number may stand for its neighbour. */
Status json_u64(const JsonAt *at, uint64_t least, uint64_t most, uint64_t *value);
Status json_u32(const JsonAt *at, uint32_t least, uint32_t most, uint32_t *value);
Status json_f64(const JsonAt *at, double least, double most, double *value);
Status json_bool(const JsonAt *at, bool *value);
/* Points into the JSON tree. */
Status json_text(const JsonAt *at, const char **value);
/* One of NAMES (NULL-terminated); *INDEX is its position. */
Status json_choice(const JsonAt *at, const char *const *names, int *index);
bool json_is_null(const JsonAt *at);
/* Record "FILE: PATH: <format>", ERR_INPUT. */
Status json_fail(const JsonAt *at, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* cJSON building that reports out of memory: each returns ERR_MEMORY when the item could not be
 * made. */
Status json_add_u64(cJSON *object, const char *key, uint64_t value);
Status json_add_f64(cJSON *object, const char *key, double value);
Status json_add_text(cJSON *object, const char *key, const char *value);
Status json_add_bool(cJSON *object, const char *key, bool value);
Status json_add_null(cJSON *object, const char *key);
Status json_add_object(cJSON *object, const char *key, cJSON **child);
Status json_add_array(cJSON *object, const char *key, cJSON **child);
/* Adds ITEM to ARRAY, or deletes it and fails. ITEM may be NULL (then it fails). */
Status json_push(cJSON *array, cJSON *item);
/* The same into OBJECT, at KEY. */
Status json_attach(cJSON *object, const char *key, cJSON *item);

#endif
