extern "C" {
#include "base/status.h"
}
#include "exec/text/sentencepiece.h"

#include <exception>
#include <new>
#include <string>
#include <vector>

#include <sentencepiece_processor.h>

struct SentencePiece {
    sentencepiece::SentencePieceProcessor processor;
};

namespace
{

/* Runs WORK; what it throws becomes a failure. */
template <typename Work> Status guarded(const char *what, Work work)
{
    try {
        return work();
    } catch (const std::bad_alloc &) {
        return fail_memory(what, 0);
    } catch (const std::exception &problem) {
        return fail(ERR_INPUT, "%s: %s", what, problem.what());
    }
}

Status checked(const char *what, const sentencepiece::util::Status &status)
{
    return status.ok() ? OK : fail(ERR_INPUT, "%s: %s", what, status.message());
}

} // namespace

Status sentencepiece_open(const char *path, SentencePiece **model)
{
    *model = nullptr;
    SentencePiece *made = new (std::nothrow) SentencePiece;
    if (made == nullptr)
        return fail_memory(path, sizeof *made);
    Status status =
        guarded(path, [&] { return checked(path, made->processor.Load(std::string(path))); });
    if (status == OK)
        *model = made;
    else
        delete made;
    return status;
}

void sentencepiece_close(SentencePiece *model)
{
    delete model;
}

uint32_t sentencepiece_count(const SentencePiece *model)
{
    return static_cast<uint32_t>(model->processor.GetPieceSize());
}

Span sentencepiece_piece(const SentencePiece *model, uint32_t id)
{
    const std::string &piece = model->processor.IdToPiece(static_cast<int>(id));
    return Span{reinterpret_cast<const unsigned char *>(piece.data()), piece.size()};
}

bool sentencepiece_is_control(const SentencePiece *model, uint32_t id)
{
    return model->processor.IsControl(static_cast<int>(id));
}

Status sentencepiece_encode(const SentencePiece *model, Span text, IdBuffer *ids)
{
    return guarded("SentencePiece", [&] {
        std::vector<int> found;
        absl::string_view view(reinterpret_cast<const char *>(text.data), text.bytes);
        TRY(checked("SentencePiece", model->processor.Encode(view, &found)));
        TRY(ids_reserve(ids, found.size()));
        for (int id : found)
            TRY(ids_push(ids, static_cast<uint32_t>(id)));
        return OK;
    });
}

Status sentencepiece_decode(const SentencePiece *model, const uint32_t *ids, size_t count,
                            ByteBuffer *text)
{
    return guarded("SentencePiece", [&] {
        std::string decoded;
        std::vector<int> wanted(ids, ids + count);
        TRY(checked("SentencePiece", model->processor.Decode(wanted, &decoded)));
        return bytes_append(text, decoded.data(), decoded.size());
    });
}
