#include "base/files.h"
#include "traces/import_formats.h"
#include "traces/import_tokens.h"
#include "traces/npy.h"

static Status view_ids(const ImportOptions *options, const FileMap *map, cJSON *notes,
                       ImportTokens *tokens)
{
    TRY(npy_view(options->path, map->data, map->bytes, &tokens->ids));
    if (tokens->ids.rank != 3) /* before the sequences are held against its first dimension */
        return fail(ERR_INPUT, "%s: shape: %u dimensions, wanted are 3: [token, layer, k]",
                    options->path, tokens->ids.rank);
    return import_tokens_sequences(options, tokens, notes);
}

Status import_npy(const ImportOptions *options, ImportReport *report)
{
    FileMap map;
    ImportTokens tokens = {0};
    TRY(file_map_open(options->path, &map));
    cJSON *notes = cJSON_CreateObject();
    Status status =
        notes != NULL ? view_ids(options, &map, notes, &tokens) : fail_memory("run.notes", 0);
    if (status == OK)
        status = import_tokens_write(options, &tokens, NULL, notes, report);
    import_sequences_free(&tokens.sequences);
    cJSON_Delete(notes);
    file_map_close(&map);
    return status;
}
