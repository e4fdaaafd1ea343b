#include "traces/safetensors.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/files.h"
#include "base/json.h"
#include "base/memory.h"

/* One tensor of the file that is being written. */
typedef struct {
    Tensor spec; /* name and data are not used */
    char *name;  /* own copy */
    size_t begin;
    size_t written;
} Piece;

struct SafeTensorsWriter {
    OutputFile output;
    Piece *pieces; /* [count] as the caller ordered them */
    size_t count;
    size_t data_start; /* in the file */
};

static Status piece_set(Piece *piece, const char *path, const Tensor *spec)
{
    piece->spec = *spec;
    piece->spec.bytes = dtype_bytes(spec->dtype);
    for (uint32_t i = 0; i < spec->rank; i++)
        if (__builtin_mul_overflow(piece->spec.bytes, spec->shape[i], &piece->spec.bytes))
            return fail(ERR_OUTPUT, "%s: tensor %s: the shape is too large", path, spec->name);
    size_t length = strlen(spec->name) + 1;
    TRY(mem_new(&piece->name, length, 1, path));
    memcpy(piece->name, spec->name, length);
    return OK;
}

/* Larger elements first, so that every tensor is aligned to its element; then by name. */
static int compare_layout(const void *left, const void *right)
{
    const Piece *a = *(const Piece *const *)left;
    const Piece *b = *(const Piece *const *)right;
    size_t a_bytes = dtype_bytes(a->spec.dtype);
    size_t b_bytes = dtype_bytes(b->spec.dtype);
    if (a_bytes != b_bytes)
        return a_bytes > b_bytes ? -1 : 1;
    return strcmp(a->name, b->name);
}

static Status push_number(cJSON *array, uint64_t value)
{
    return json_push(array, cJSON_CreateNumber((double)value));
}

static Status describe(cJSON *root, const Piece *piece)
{
    cJSON *entry = NULL;
    cJSON *shape = NULL;
    cJSON *offsets = NULL;
    TRY(json_add_object(root, piece->name, &entry));
    TRY(json_add_text(entry, "dtype", dtype_name(piece->spec.dtype)));
    TRY(json_add_array(entry, "shape", &shape));
    for (uint32_t i = 0; i < piece->spec.rank; i++)
        TRY(push_number(shape, piece->spec.shape[i]));
    TRY(json_add_array(entry, "data_offsets", &offsets));
    TRY(push_number(offsets, piece->begin));
    return push_number(offsets, piece->begin + piece->spec.bytes);
}

/* ORDER[count] are the pieces as they will lie in the file; gives each its place. */
static Status lay_out(const char *path, Piece **order, size_t count, cJSON *root)
{
    size_t reached = 0;
    for (size_t i = 0; i < count; i++) {
        order[i]->begin = reached;
        if (__builtin_add_overflow(reached, order[i]->spec.bytes, &reached))
            return fail(ERR_OUTPUT, "%s: the tensors are too large for one file", path);
        TRY(describe(root, order[i]));
    }
    return OK;
}

/* The size, the header and blanks up to a multiple of 8, as other writers do. */
static void put_header(SafeTensorsWriter *writer, const char *text)
{
    size_t length = strlen(text);
    size_t padded = (length + 7) / 8 * 8;
    unsigned char size[8];
    for (size_t i = 0; i < sizeof size; i++)
        size[i] = (unsigned char)((uint64_t)padded >> 8 * i);
    fwrite(size, 1, sizeof size, writer->output.stream);
    fprintf(writer->output.stream, "%s%*s", text, (int)(padded - length), "");
    writer->data_start = sizeof size + padded;
}

static Status write_header(SafeTensorsWriter *writer, const char *path)
{
    Piece **order = NULL;
    char *text = NULL;
    cJSON *root = cJSON_CreateObject();
    Status status = root != NULL ? OK : fail_memory(path, sizeof *root);
    if (status == OK)
        status = mem_new(&order, writer->count, sizeof *order, path);
    if (status == OK) {
        for (size_t i = 0; i < writer->count; i++)
            order[i] = &writer->pieces[i];
        qsort(order, writer->count, sizeof *order, compare_layout);
        status = lay_out(path, order, writer->count, root);
    }
    if (status == OK)
        status = fail_in(json_print(root, false, &text), "%s", path);
    if (status == OK)
        put_header(writer, text);
    mem_free(order);
    mem_free(text);
    cJSON_Delete(root);
    return status;
}

static void writer_free(SafeTensorsWriter *writer)
{
    if (writer == NULL)
        return;
    for (size_t i = 0; writer->pieces != NULL && i < writer->count; i++)
        mem_free(writer->pieces[i].name);
    mem_free(writer->pieces);
    mem_free(writer);
}

Status safetensors_writer_open(const char *path, const Tensor *specs, size_t n,
                               SafeTensorsWriter **writer)
{
    SafeTensorsWriter *made = NULL;
    TRY(mem_new(&made, 1, sizeof *made, path));
    made->count = n;
    Status status = mem_new(&made->pieces, n, sizeof *made->pieces, path);
    for (size_t i = 0; i < n && status == OK; i++)
        status = piece_set(&made->pieces[i], path, &specs[i]);
    if (status == OK)
        status = output_open(path, &made->output);
    if (status == OK)
        status = write_header(made, path);
    if (status != OK) {
        safetensors_writer_discard(made);
        return status;
    }
    *writer = made;
    return OK;
}

Status safetensors_writer_append(SafeTensorsWriter *writer, size_t i, const void *data,
                                 size_t bytes)
{
    Piece *piece = &writer->pieces[i];
    const char *path = writer->output.path;
    if (bytes > piece->spec.bytes - piece->written)
        return fail(ERR_IO, "%s: tensor %s: more than its %zu bytes were given", path, piece->name,
                    piece->spec.bytes);
    if (bytes == 0)
        return OK;
    FILE *stream = writer->output.stream;
    off_t at = (off_t)(writer->data_start + piece->begin + piece->written);
    if ((ftello(stream) != at && fseeko(stream, at, SEEK_SET) != 0) ||
        fwrite(data, 1, bytes, stream) != bytes)
        return fail(ERR_IO, "%s: tensor %s: cannot write: %s", path, piece->name, strerror(errno));
    piece->written += bytes;
    return OK;
}

Status safetensors_writer_commit(SafeTensorsWriter *writer)
{
    Status status = OK;
    for (size_t i = 0; i < writer->count && status == OK; i++) {
        const Piece *piece = &writer->pieces[i];
        if (piece->written != piece->spec.bytes)
            status = fail(ERR_IO, "%s: tensor %s: %zu of its %zu bytes were given",
                          writer->output.path, piece->name, piece->written, piece->spec.bytes);
    }
    if (status == OK)
        status = output_commit(&writer->output);
    safetensors_writer_discard(writer);
    return status;
}

void safetensors_writer_discard(SafeTensorsWriter *writer)
{
    if (writer == NULL)
        return;
    output_discard(&writer->output);
    writer_free(writer);
}
