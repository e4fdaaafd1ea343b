#include "base/files.h"
#include "traces/import_formats.h"
#include "traces/import_tokens.h"
#include "traces/npy.h"

static Status view_ids(const ImportOptions *options, const FileMap *map, ImportTokens *tokens)
{
    TRY(npy_view(options->path, map->data, map->bytes, &tokens->ids));
    if (tokens->ids.rank != 3) /* before the sequences are held against its first dimension */
        return fail(ERR_INPUT, "%s: shape: %u dimensions, wanted are 3: [token, layer, k]",
                    options->path, tokens->ids.rank);
    if (options->sequences != NULL)
        return import_sequences_read(options->sequences, options->label, tokens->ids.shape[0],
                                     &tokens->sequences);
    return import_sequences_one(tokens->ids.shape[0], &tokens->sequences);
}

static Status add_notes(const ImportOptions *options, cJSON *notes)
{
    if (options->sequences != NULL)
        TRY(json_add_text(notes, "sequences", options->sequences));
    return OK;
}

Status import_npy(const ImportOptions *options, ImportReport *report)
{
    FileMap map;
    ImportTokens tokens = {0};
    TRY(file_map_open(options->path, &map));
    cJSON *notes = cJSON_CreateObject();
    Status status = notes != NULL ? view_ids(options, &map, &tokens) : fail_memory("run.notes", 0);
    if (status == OK)
        status = add_notes(options, notes);
    if (status == OK)
        status = import_tokens_write(options, &tokens, NULL, notes, report);
    import_sequences_free(&tokens.sequences);
    cJSON_Delete(notes);
    file_map_close(&map);
    return status;
}
