#include "traces/digest.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/crc32c.h"
#include "base/json.h"
#include "base/memory.h"

enum { DIGEST_BYTES = 512, SEAL_DIGITS = 8 };

static const char SEAL_START[] = "\"notes\":\"";
static const char SEAL_END[] = "\"}}";

/* The caller's object as text, without our keys. cJSON prints "{}" or "{"a":1}". */
static Status caller_object(const char *caller, char **text)
{
    cJSON *root;
    TRY(json_parse(caller, strlen(caller), "run.notes", &root));
    Status status = OK;
    if (!cJSON_IsObject(root))
        status = fail(ERR_INPUT, "run.notes: must be a JSON object");
    cJSON_DeleteItemFromObjectCaseSensitive(root, "complete");
    cJSON_DeleteItemFromObjectCaseSensitive(root, "digest");
    if (status == OK)
        status = json_print(root, false, text);
    cJSON_Delete(root);
    return status;
}

Status digest_notes_new(const char *caller, DigestNotes *notes)
{
    char *object;
    *notes = (DigestNotes){0};
    TRY(caller_object(caller != NULL ? caller : "{}", &object));
    size_t length = strlen(object) - 1; /* without the closing brace */
    Status status = mem_new(&notes->text, length + DIGEST_BYTES, 1, "run.notes");
    if (status == OK) {
        memcpy(notes->text, object, length);
        notes->prefix = length;
        if (length > 1)
            notes->text[notes->prefix++] = ',';
    }
    cJSON_free(object);
    return status;
}

size_t digest_print(const Digest *digest, DigestNotes *notes)
{
    char *at = notes->text + notes->prefix;
    size_t used = (size_t)snprintf(
        at, DIGEST_BYTES - 1,
        "\"complete\":%s,\"digest\":{\"run\":%" PRIu32 ",\"layers\":%" PRIu32
        ",\"requests\":%" PRIu32 ",\"request_rows\":%" PRIu64 ",\"steps\":%" PRIu64
        ",\"residency_rows\":%" PRIu64 ",\"timing_rows\":%" PRIu64 ",\"prediction_rows\":%" PRIu64
        ",%s",
        digest->complete ? "true" : "false", digest->run, digest->layers, digest->requests,
        digest->request_rows, digest->steps, digest->residency_rows, digest->timing_rows,
        digest->prediction_rows, SEAL_START);
    uint32_t crc = crc32c(0, notes->text, notes->prefix + used);
    used += (size_t)snprintf(at + used, DIGEST_BYTES - 1 - used, "%08" PRIX32 "%s", crc, SEAL_END);
    return notes->prefix + used;
}

/* The digits between SEAL_START and SEAL_END at the very end of NOTES, or NULL. */
static const char *find_seal(const char *notes)
{
    size_t length = strlen(notes);
    size_t tail = SEAL_DIGITS + strlen(SEAL_END);
    if (length < tail + strlen(SEAL_START))
        return NULL;
    const char *digits = notes + length - tail;
    if (strcmp(digits + SEAL_DIGITS, SEAL_END) != 0 ||
        memcmp(digits - strlen(SEAL_START), SEAL_START, strlen(SEAL_START)) != 0)
        return NULL;
    return digits;
}

static Status read_counts(const JsonAt *at, const JsonAt *root, Digest *digest)
{
    const struct {
        const char *key;
        uint32_t *value;
    } sums[] = {
        {"run", &digest->run}, {"layers", &digest->layers}, {"requests", &digest->requests}};
    const struct {
        const char *key;
        uint64_t *value;
    } counts[] = {{"request_rows", &digest->request_rows},
                  {"steps", &digest->steps},
                  {"residency_rows", &digest->residency_rows},
                  {"timing_rows", &digest->timing_rows}};
    JsonAt member;
    for (size_t i = 0; i < sizeof sums / sizeof *sums; i++) {
        TRY(json_need(at, sums[i].key, &member));
        TRY(json_u32(&member, 0, UINT32_MAX, sums[i].value));
    }
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        TRY(json_need(at, counts[i].key, &member));
        TRY(json_u64(&member, 0, INT64_MAX, counts[i].value));
    }
    digest->has_predictions = json_find(at, "prediction_rows", &member);
    if (digest->has_predictions)
        TRY(json_u64(&member, 0, INT64_MAX, &digest->prediction_rows));
    TRY(json_need(root, "complete", &member));
    return json_bool(&member, &digest->complete);
}

static Status parse_sealed(const char *notes, const char *digits, Digest *digest)
{
    char expected[SEAL_DIGITS + 1];
    uint32_t crc = crc32c(0, notes, (size_t)(digits - notes));
    snprintf(expected, sizeof expected, "%08" PRIX32, crc);
    if (memcmp(expected, digits, SEAL_DIGITS) != 0)
        return fail(ERR_CORRUPT, "the digest does not match the text");
    cJSON *json;
    TRY(json_parse(notes, strlen(notes), "digest", &json));
    JsonAt root = json_root(json, "digest");
    JsonAt at;
    Status status = json_need(&root, "digest", &at);
    if (status == OK)
        status = read_counts(&at, &root, digest);
    cJSON_Delete(json);
    digest->present = status == OK;
    return status;
}

Status digest_parse(const char *file, const char *notes, bool marked, Digest *digest)
{
    *digest = (Digest){0};
    const char *digits = notes != NULL ? find_seal(notes) : NULL;
    if (digits == NULL) {
        if (marked || (notes != NULL && strstr(notes, "\"digest\":{\"run\":") != NULL))
            return fail(ERR_CORRUPT, "%s: run: notes: the digest is missing or damaged", file);
        return OK;
    }
    Status status = parse_sealed(notes, digits, digest);
    if (status == ERR_INPUT)
        status = ERR_CORRUPT;
    return fail_in(status, "%s: run: notes", file);
}
