/* Any bytes as a foreign file of any format: refused with nothing left behind, or a trace that
 * passes its own check. The first byte chooses the format. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/files.h"
#include "base/memory.h"
#include "traces/import.h"
#include "traces/reader.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static char in[64];
static char out[64];

static void prepare(void)
{
    memory_install();
    snprintf(in, sizeof in, "/tmp/moebius-fuzz-in-%ld", (long)getpid());
    snprintf(out, sizeof out, "/tmp/moebius-fuzz-out-%ld.db", (long)getpid());
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    ImportReport report;
    TraceCheck found;
    if (in[0] == '\0')
        prepare();
    if (bytes == 0)
        return 0;
    int fd = open(in, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, data + 1, bytes - 1) != (ssize_t)(bytes - 1))
        abort();
    close(fd);
    const ImportOptions options = {
        .from = (ImportFormat)(data[0] % IMPORT_FORMATS), .path = in, .out = out};
    if (trace_import(&options, &report) == OK) {
        if (trace_check(out, &found, NULL, NULL) != OK || found.tokens != report.tokens)
            abort();
    } else if (file_exists(out) || error_message()[0] == '\0') {
        abort();
    }
    unlink(out);
    unlink(in);
    return 0;
}
