#include "sim/sweep_message.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"

static bool has_layers(const SweepMessage *message)
{
    return message->kind == SWEEP_RESULT && message->finished.status == OK;
}

static Status send_with_layers(SweepRanks *ranks, uint32_t to, const SweepMessage *message)
{
    const ReplayResult *result = &message->finished.result;
    size_t layers_bytes = result->n_layers * sizeof *result->layers;
    unsigned char *bytes;
    TRY(mem_new(&bytes, sizeof *message + layers_bytes, 1, "message between ranks"));
    memcpy(bytes, message, sizeof *message);
    memcpy(bytes + sizeof *message, result->layers, layers_bytes);
    Status status = ranks->transport->send(ranks, to, bytes, sizeof *message + layers_bytes);
    mem_free(bytes);
    return status;
}

Status sweep_message_send(SweepRanks *ranks, uint32_t to, SweepMessage *message)
{
    snprintf(message->version, sizeof message->version, "%s", MOEBIUS_VERSION);
    if (has_layers(message))
        return send_with_layers(ranks, to, message);
    return ranks->transport->send(ranks, to, message, sizeof *message);
}

static Status check_version(const SweepMail *mail)
{
    char version[sizeof((SweepMessage *)0)->version] = "";
    memcpy(version, mail->data, mail->bytes < sizeof version ? mail->bytes : sizeof version);
    version[sizeof version - 1] = '\0';
    if (strcmp(version, MOEBIUS_VERSION) != 0)
        return fail(ERR_UNSUPPORTED, "rank %u runs moebius \"%s\", this one " MOEBIUS_VERSION,
                    mail->from, version);
    if (mail->bytes < sizeof(SweepMessage))
        return fail(ERR_UNSUPPORTED, "rank %u runs another build of moebius " MOEBIUS_VERSION,
                    mail->from);
    return OK;
}

Status sweep_message_receive(SweepRanks *ranks, uint32_t *from, SweepMessage *message)
{
    SweepMail mail;
    TRY(ranks->transport->receive(ranks, &mail));
    if (mail.data == NULL)
        return STATUS_END;
    *from = mail.from;
    TRY(check_version(&mail));
    memcpy(message, mail.data, sizeof *message);
    ReplayResult *result = &message->finished.result;
    if (!has_layers(message)) {
        *result = (ReplayResult){0};
        return OK;
    }
    size_t bytes = result->n_layers * sizeof *result->layers;
    if (mail.bytes != sizeof *message + bytes)
        return fail(ERR_UNSUPPORTED, "rank %u runs another build of moebius " MOEBIUS_VERSION,
                    mail.from);
    TRY(mem_new(&result->layers, result->n_layers, sizeof *result->layers, "sweep"));
    memcpy(result->layers, (const unsigned char *)mail.data + sizeof *message, bytes);
    return OK;
}
