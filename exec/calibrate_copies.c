/* Copies between host and device by size, beside nothing and beside computation, and what they cost
 * the computation. */
#include <string.h>

#include "base/clock.h"
#include "exec/calibrate_rig.h"

enum {
    LEAST_BYTES = 4 << 10,
    BUSY_BYTES =
        64 << 20, /* the largest copy that is measured beside computation, if there is room */
    TURN_BYTES = 4 << 20,
    THROTTLED_NS = 400000, /* longer than such a load takes by itself */
    SHORT_BYTES = 128 << 10,
    BURST = 8, /* copies at a time, one after the other */
    TOGETHER_BYTES = 64 << 10,
    MOST_LOADS = 64, /* that are copied together */
    ROUNDS = 5,
    SIDE = 8192, /* of the matrix that is multiplied beside copies */
    QUICK_SIDE = 512,
    MANY_ROWS = 2048, /* of a product that arithmetic bounds; one row is bound by memory */
    FEW_ROWS = 256,   /* of a matrix, which a product reads at once */
    MOST_PRODUCTS = 4096,
    STAMPS = 17,
    AHEAD = 4 /* long products that keep the device busy while the host queues */
};

static const char *const BYTES_AXIS[] = {"bytes"};
static const char *const TOKENS_AXIS[] = {"tokens"};

static Status open_rig(Calibration *c, Rig *rig)
{
    size_t side = rig->side;
    size_t matrix = side * side * rig->weight_bytes;
    size_t rows = (size_t)MANY_ROWS * side * sizeof(float);
    /* A product's scratch is sized by tokens of the model's width. */
    uint32_t tokens = MANY_ROWS * (1 + rig->side / c->config->d_model);
    const DeviceOptions options = {.config = c->config,
                                   .compute = c->options->compute,
                                   .threads = c->options->threads,
                                   .max_requests = 1,
                                   .max_length = 1,
                                   .max_tokens = tokens,
                                   .max_loads = MOST_LOADS,
                                   .max_stamps = STAMPS};
    void *host;
    void *device;
    TRY(backend_find(c->options->device, &rig->backend));
    TRY(rig->backend->open(&options, &rig->device));
    TRY(rig->backend->allocate(rig->device, rig->most_bytes + matrix + 2 * rows, &device));
    TRY(rig->backend->allocate_host(rig->device, 2 * rig->most_bytes, &host));
    rig->host = host;
    rig->at = device;
    rig->matrix = (Matrix){
        .data = rig->at + rig->most_bytes, .rows = (uint32_t)side, .columns = (uint32_t)side};
    rig->in = (float *)(void *)(rig->at + rig->most_bytes + matrix);
    rig->out = rig->in + (size_t)MANY_ROWS * side;
    return OK;
}

static size_t busy_bytes(const Rig *rig)
{
    return rig->most_bytes < BUSY_BYTES ? rig->most_bytes : BUSY_BYTES;
}

/* An FFN of so many bytes in a slot: a load copies whole ones. */
FfnShape rig_shape(const Rig *rig, size_t bytes)
{
    enum { WIDTH = 32 };
    return (FfnShape){.d_model = WIDTH,
                      .d_ff = (uint32_t)(bytes / (2 * WIDTH * rig->weight_bytes))};
}

static Status begin_loads(const Rig *rig, const FfnShape *shape, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        const Load load = {.shape = shape, .kept = rig->host, .slot = rig->at, .ticket = i};
        TRY(rig->backend->load(rig->device, &load, 1));
    }
    return OK;
}

/* The time of each of N loads: from the end of the one before, where that comes after its start. */
static Status read_loads(const Rig *rig, uint32_t n, double *ns)
{
    uint64_t end_ns = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t start_ns;
        uint64_t duration_ns;
        TRY(rig->backend->load_time(rig->device, i, &start_ns, &duration_ns));
        uint64_t from_ns = start_ns > end_ns ? start_ns : end_ns;
        end_ns = start_ns + duration_ns;
        ns[i] = end_ns > from_ns ? (double)(end_ns - from_ns) : 0;
    }
    return OK;
}

Status rig_multiply(const Rig *rig, uint32_t rows, uint32_t times)
{
    for (uint32_t i = 0; i < times; i++)
        TRY(rig->backend->linear(rig->device, rig->in, &rig->matrix, rows, false, rig->out));
    return OK;
}

/* The time of products beside N loads of SHAPE (0: none), for each. */
static Status time_products(const Rig *rig, uint32_t rows, uint32_t products, const FfnShape *shape,
                            uint32_t n, double *ns)
{
    uint64_t stamps[2];
    TRY(begin_loads(rig, shape, n));
    TRY(rig->backend->stamp(rig->device, 0));
    TRY(rig_multiply(rig, rows, products));
    TRY(rig->backend->stamp(rig->device, 1));
    for (uint32_t i = 0; i < n; i++)
        TRY(rig->backend->await_loads(rig->device, &i, 1));
    TRY(rig->backend->wait(rig->device));
    TRY(rig->backend->stamp_times(rig->device, 2, stamps));
    *ns = (double)(stamps[1] - stamps[0]) / products;
    return OK;
}

static Status note(const Rig *rig, const char *name, const char *const *axis, double place,
                   CostUnit unit, double *values, uint32_t n)
{
    double spread = variation_f64(values, n);
    return calibration_note(rig->calibration, name, "", unit, axis, axis != NULL, &place,
                            median_f64(values, n), spread);
}

/* Loads of BYTES: one after the other, each at the heels of the one before. For seconds at a time
 * others may have a part of the link: of several sweeps over all sizes the least counts. */
static Status measure_loads(const Rig *rig, size_t bytes)
{
    const double at = (double)bytes;
    const FfnShape shape = rig_shape(rig, bytes);
    double ns[ROUNDS * BURST];
    uint32_t burst = bytes >= BUSY_BYTES ? 2 : BURST;
    for (int round = -1; round < ROUNDS; round++) {
        double *row = ns + (round > 0 ? (uint32_t)round : 0) * burst;
        TRY(begin_loads(rig, &shape, burst));
        for (uint32_t i = 0; i < burst; i++)
            TRY(rig->backend->await_loads(rig->device, &i, 1));
        TRY(rig->backend->wait(rig->device));
        TRY(read_loads(rig, burst, row));
    }
    double spread = variation_f64(ns, ROUNDS * burst);
    return calibration_note_least(rig->calibration, "copy/h2d", BYTES_AXIS, 1, &at,
                                  median_f64(ns, ROUNDS * burst), spread);
}

static Status sweep_loads(const Rig *rig)
{
    for (size_t bytes = LEAST_BYTES; bytes <= rig->most_bytes; bytes *= 2)
        TRY(measure_loads(rig, bytes));
    return OK;
}

/* Small loads that are begun together, by the bytes of all, while a product that they come after is
 * on its way. */
static Status measure_together(const Rig *rig, uint32_t n)
{
    const FfnShape shape = rig_shape(rig, TOGETHER_BYTES);
    Load loads[MOST_LOADS];
    double ns[ROUNDS];
    for (uint32_t i = 0; i < n; i++)
        loads[i] = (Load){.shape = &shape,
                          .kept = rig->host + i * TOGETHER_BYTES,
                          .slot = rig->at + i * TOGETHER_BYTES,
                          .after_queue = true,
                          .ticket = i};
    for (int round = -1; round < ROUNDS; round++) {
        uint64_t start_ns;
        uint64_t duration_ns;
        TRY(rig_multiply(rig, MANY_ROWS, 1));
        TRY(rig->backend->load(rig->device, loads, n));
        TRY(rig->backend->await_loads(rig->device, &loads->ticket, 1));
        TRY(rig->backend->wait(rig->device));
        TRY(rig->backend->load_time(rig->device, 0, &start_ns, &duration_ns));
        ns[round > 0 ? round : 0] = (double)duration_ns;
    }
    return note(rig, "copy/together", BYTES_AXIS, (double)n * TOGETHER_BYTES, UNIT_NS, ns, ROUNDS);
}

static Status measure_fetches(const Rig *rig, size_t bytes)
{
    double ns[ROUNDS];
    for (int round = -1; round < ROUNDS; round++) {
        uint64_t stamps[2];
        TRY(rig->backend->stamp(rig->device, 0));
        TRY(rig->backend->fetch(rig->device, rig->host, rig->at, bytes));
        TRY(rig->backend->stamp(rig->device, 1));
        TRY(rig->backend->wait(rig->device));
        TRY(rig->backend->stamp_times(rig->device, 2, stamps));
        ns[round > 0 ? round : 0] = (double)(stamps[1] - stamps[0]);
    }
    return note(rig, "copy/d2h", BYTES_AXIS, (double)bytes, UNIT_NS, ns, ROUNDS);
}

static Status measure_host_copies(const Rig *rig, size_t bytes)
{
    double ns[ROUNDS];
    calibration_seek_quiet(rig->calibration);
    for (int round = -1; round < ROUNDS; round += calibration_counts(rig->calibration)) {
        uint64_t start_ns = clock_ns();
        memcpy(rig->host + rig->most_bytes, rig->host, bytes);
        ns[round > 0 ? round : 0] = (double)(clock_ns() - start_ns);
    }
    return note(rig, "host/copy", BYTES_AXIS, (double)bytes, UNIT_NS, ns, ROUNDS);
}

/* Loads beside products that last longer than all of them. */
static Status measure_busy_loads(const Rig *rig, size_t bytes, double product_ns)
{
    const FfnShape shape = rig_shape(rig, bytes);
    double ns[ROUNDS * BURST];
    double ignored;
    double loads_ns = 0;
    for (int round = -1; round < ROUNDS; round++) {
        double *row = ns + (round > 0 ? round : 0) * BURST;
        double wanted = 2 * loads_ns / product_ns + 2;
        uint32_t products = wanted < MOST_PRODUCTS ? (uint32_t)wanted : MOST_PRODUCTS;
        TRY(time_products(rig, 1, products, &shape, BURST, &ignored));
        TRY(read_loads(rig, BURST, row));
        for (int i = 0; round < 0 && i < BURST; i++)
            loads_ns += row[i];
    }
    return note(rig, "copy/h2d-busy", BYTES_AXIS, (double)bytes, UNIT_NS, ns, ROUNDS * BURST);
}

/* Products of ROWS rows beside loads that last longer than they do, against alone. */
static Status measure_slowdown(const Rig *rig, uint32_t rows, double loads_ns, double *alone_ns)
{
    const FfnShape shape = rig_shape(rig, busy_bytes(rig));
    double alone[ROUNDS];
    double factors[ROUNDS];
    double beside;
    TRY(time_products(rig, rows, 4, &shape, 0, &alone[0]));
    double wanted = 0.7 * loads_ns / alone[0];
    uint32_t products = wanted < 1 ? 1 : wanted < MOST_PRODUCTS ? (uint32_t)wanted : MOST_PRODUCTS;
    for (int round = 0; round < ROUNDS; round++) {
        TRY(time_products(rig, rows, products, &shape, 0, &alone[round]));
        TRY(time_products(rig, rows, products, &shape, BURST, &beside));
        factors[round] = beside / alone[round];
    }
    *alone_ns = median_f64(alone, ROUNDS);
    return note(rig, "slowdown", TOKENS_AXIS, rows, UNIT_FACTOR, factors, ROUNDS);
}

static Status measure_beside(const Rig *rig)
{
    const FfnShape shape = rig_shape(rig, busy_bytes(rig));
    double ns[BURST];
    double loads_ns = 0;
    double product_ns = 0;
    double ignored;
    TRY(time_products(rig, 1, 1, &shape, BURST, &ignored));
    TRY(read_loads(rig, BURST, ns));
    for (int i = 0; i < BURST; i++)
        loads_ns += ns[i];
    TRY(measure_slowdown(rig, MANY_ROWS, loads_ns, &product_ns));
    TRY(measure_slowdown(rig, 1, loads_ns, &product_ns));
    for (size_t bytes = LEAST_BYTES; bytes <= busy_bytes(rig); bytes *= 2)
        TRY(measure_busy_loads(rig, bytes, product_ns));
    return OK;
}

/* Loads and products in turns: each load waits for the product before it, each product for its
 * load. What they take longer than one after the other is spent on handing over, twice a turn. */
static Status measure_turns(const Rig *rig)
{
    const FfnShape shape = rig_shape(rig, TURN_BYTES);
    double ns[ROUNDS];
    double product_ns;
    TRY(time_products(rig, 1, BURST, &shape, 0, &product_ns));
    for (int round = -1; round < ROUNDS; round++) {
        double *turn_ns = &ns[round > 0 ? round : 0];
        double loads_ns[BURST];
        uint64_t stamps[2];
        TRY(rig->backend->stamp(rig->device, 0));
        for (uint32_t i = 0; i < BURST; i++) {
            const Load load = {.shape = &shape,
                               .kept = rig->host,
                               .slot = rig->at,
                               .after_queue = true,
                               .ticket = i};
            TRY(rig->backend->load(rig->device, &load, 1));
            TRY(rig->backend->await_loads(rig->device, &i, 1));
            TRY(rig_multiply(rig, 1, 1));
        }
        TRY(rig->backend->stamp(rig->device, 1));
        TRY(rig->backend->wait(rig->device));
        TRY(rig->backend->stamp_times(rig->device, 2, stamps));
        TRY(read_loads(rig, BURST, loads_ns));
        *turn_ns = (double)(stamps[1] - stamps[0]) / BURST - product_ns;
        for (int i = 0; i < BURST; i++)
            *turn_ns -= loads_ns[i] / BURST;
        *turn_ns = *turn_ns > 0 ? *turn_ns / 2 : 0;
    }
    return note(rig, "sync", NULL, 0, UNIT_NS, ns, ROUNDS);
}

/* BURST loads of BYTES that take AT_LEAST_NS, and the host's time to begin each; those of the
 * second round are kept, when nothing is new any more. */
static Status time_loads(const Rig *rig, size_t bytes, uint64_t at_least_ns, double *ns,
                         double *issue_ns)
{
    const FfnShape shape = rig_shape(rig, bytes);
    calibration_seek_quiet(rig->calibration);
    for (int round = 0; round < 2; round += calibration_counts(rig->calibration)) {
        for (uint32_t i = 0; i < BURST; i++) {
            const Load load = {.shape = &shape,
                               .kept = rig->host,
                               .slot = rig->at,
                               .at_least_ns = at_least_ns,
                               .ticket = i};
            uint64_t start_ns = clock_ns();
            TRY(rig->backend->load(rig->device, &load, 1));
            issue_ns[i] = (double)(clock_ns() - start_ns);
            TRY(rig->backend->await_loads(rig->device, &i, 1));
        }
        TRY(rig->backend->wait(rig->device));
        TRY(read_loads(rig, BURST, ns));
    }
    return OK;
}

/* VALUES [BURST] beyond BASE. */
static void take_away(double *values, double base)
{
    for (int i = 0; i < BURST; i++)
        values[i] = values[i] > base ? values[i] - base : 0;
}

/* What a load over a slow link takes longer than the link is said to, what it takes more than a
 * copy, however fast the link, and what the host needs to begin it more. */
static Status measure_throttle(const Rig *rig)
{
    double ns[BURST];
    double issue_ns[BURST];
    double plain_ns[BURST];
    double plain_issue_ns[BURST];
    TRY(time_loads(rig, TURN_BYTES, THROTTLED_NS, ns, issue_ns));
    take_away(ns, THROTTLED_NS);
    TRY(note(rig, "throttle", NULL, 0, UNIT_NS, ns, BURST));
    TRY(time_loads(rig, SHORT_BYTES, 0, plain_ns, plain_issue_ns));
    TRY(time_loads(rig, SHORT_BYTES, 1, ns, issue_ns));
    take_away(ns, median_f64(plain_ns, BURST));
    take_away(issue_ns, median_f64(plain_issue_ns, BURST));
    TRY(note(rig, "throttle/least", NULL, 0, UNIT_NS, ns, BURST));
    return note(rig, "issue/throttle", NULL, 0, UNIT_NS, issue_ns, BURST);
}

/* The host's time for each of as many stamps as there are, behind products that are queued before
 * the first of them begins. */
static Status time_stamps(const Rig *rig, double *issue_ns)
{
    *issue_ns = 0;
    TRY(rig_multiply(rig, MANY_ROWS, AHEAD));
    for (uint32_t i = 0; i < STAMPS; i++) {
        TRY(rig_multiply(rig, 1, 1));
        uint64_t start_ns = clock_ns();
        TRY(rig->backend->stamp(rig->device, i));
        *issue_ns += (double)(clock_ns() - start_ns) / STAMPS;
    }
    return rig->backend->wait(rig->device);
}

/* Where no graph is replayed. */
static Status measure_stamps(const Rig *rig)
{
    double ns[ROUNDS];
    calibration_seek_quiet(rig->calibration);
    for (int round = -1; round < ROUNDS; round += calibration_counts(rig->calibration))
        TRY(time_stamps(rig, &ns[round > 0 ? round : 0]));
    return note(rig, "issue/stamp", NULL, 0, UNIT_NS, ns, ROUNDS);
}

/* The device's time for a stamp and a product of few microseconds, beside N loads, each of about a
 * prefetch's part. */
static Status time_held_stamps(const Rig *rig, uint32_t n, double *ns)
{
    const FfnShape shape = rig_shape(rig, TURN_BYTES);
    Matrix few = rig->matrix;
    uint64_t stamps[STAMPS];
    few.rows = FEW_ROWS;
    TRY(begin_loads(rig, &shape, n));
    TRY(rig->backend->hold(rig->device));
    for (uint32_t i = 0; i < STAMPS; i++) {
        TRY(rig->backend->linear(rig->device, rig->in, &few, 1, false, rig->out));
        TRY(rig->backend->stamp(rig->device, i));
    }
    rig->backend->release(rig->device);
    for (uint32_t i = 0; i < n; i++)
        TRY(rig->backend->await_loads(rig->device, &i, 1));
    TRY(rig->backend->wait(rig->device));
    TRY(rig->backend->stamp_times(rig->device, STAMPS, stamps));
    *ns = (double)(stamps[STAMPS - 1] - stamps[0]) / (STAMPS - 1);
    return OK;
}

/* A stamp goes to the host's memory, and is over when it is there. */
static Status measure_stamps_beside(const Rig *rig)
{
    double ns[ROUNDS];
    for (int round = -1; round < ROUNDS; round++) {
        double alone_ns;
        double *beside_ns = &ns[round > 0 ? round : 0];
        TRY(time_held_stamps(rig, 0, &alone_ns));
        TRY(time_held_stamps(rig, BURST, beside_ns));
        *beside_ns = at_least_0(*beside_ns - alone_ns);
    }
    return note(rig, "stamp/beside", NULL, 0, UNIT_NS, ns, ROUNDS);
}

static Status measure_streams(const Rig *rig)
{
    double ns[BURST];
    double issue_ns[BURST];
    TRY(measure_turns(rig));
    TRY(measure_stamps(rig));
    TRY(measure_stamps_beside(rig));
    for (uint32_t n = 1; n <= MOST_LOADS && n * TOGETHER_BYTES <= rig->most_bytes; n *= 2)
        TRY(measure_together(rig, n));
    TRY(calibrate_copies_ahead(rig));
    TRY(time_loads(rig, TURN_BYTES, 0, ns, issue_ns));
    TRY(note(rig, "issue/load", BYTES_AXIS, TURN_BYTES, UNIT_NS, issue_ns, BURST));
    return measure_throttle(rig);
}

/* A load on the CPU converts weights as they are stored: those of experts are measured where steps
 * load them. */
static Status measure_all(const Rig *rig)
{
    bool loads = !calibration_runs_at_once(rig->calibration);
    if (loads)
        TRY(sweep_loads(rig));
    for (size_t bytes = LEAST_BYTES; bytes <= rig->most_bytes; bytes *= 2) {
        TRY(measure_fetches(rig, bytes));
        TRY(measure_host_copies(rig, bytes));
    }
    if (!loads)
        return OK;
    TRY(sweep_loads(rig));
    TRY(measure_beside(rig));
    return sweep_loads(rig);
}

Status calibrate_copies(Calibration *c)
{
    bool quick = c->options->quick;
    bool copies = !calibration_knows(c, "host/copy", "");
    bool streams = !calibration_runs_at_once(c) && !calibration_knows(c, "issue/stamp", "");
    if (calibration_only_counts(c) || (!copies && !streams))
        return OK;
    Rig rig = {.calibration = c,
               .weight_bytes = strcmp(c->compute, "bf16") == 0 ? 2 : 4,
               .side = quick ? QUICK_SIDE : SIDE,
               .most_bytes = quick ? (size_t)16 << 20 : (size_t)1 << 30};
    Status status = open_rig(c, &rig);
    if (status == OK && copies)
        status = measure_all(&rig);
    if (status == OK && streams)
        status = measure_streams(&rig);
    if (rig.device != NULL)
        rig.backend->close(rig.device);
    return status;
}
