/* One function per format; trace_import() chooses. Each fails as trace_import() does. */
#ifndef TRACES_IMPORT_FORMATS_H
#define TRACES_IMPORT_FORMATS_H

#include "traces/import.h"

Status import_npy(const ImportOptions *options, ImportReport *report);
Status import_bigmoe_csv(const ImportOptions *options, ImportReport *report);
Status import_jsonl(const ImportOptions *options, ImportReport *report);
Status import_counts(const ImportOptions *options, ImportReport *report);
Status import_sglang(const ImportOptions *options, ImportReport *report);
Status import_sglang_counts(const ImportOptions *options, ImportReport *report);
Status import_trtllm(const ImportOptions *options, ImportReport *report);
Status import_vllm(const ImportOptions *options, ImportReport *report);

#endif
