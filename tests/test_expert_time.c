/* What the host's experts and loads take beside each other, where the backend says what each took:
 * one that copies one load after the other, more slowly until the host is done. */
#include "base/status.h" /* before cmocka, which has a macro called fail */

#include "tests/support.h"

#include "exec/expert_slots.h"

enum { EXPERTS = 24, ALONE_NS = 1000 };

struct Device {
    uint64_t host_ns; /* of experts beside loads; ALONE_NS else */
    uint64_t load_ns; /* of loads alone, ... */
    uint64_t beside_ns;
    uint64_t after_ns; /* ... beside experts and after those */
    uint32_t n_loads;  /* since all was waited for */
    bool host;         /* beside them */
};

static Status load(Device *device, const Load *loads, uint32_t n)
{
    (void)loads;
    if (device->n_loads == 0)
        device->host = false;
    device->n_loads += n;
    return OK;
}

static Status wait(Device *device)
{
    device->n_loads = 0;
    return OK;
}

static Status load_time(Device *device, uint32_t ticket, uint64_t *start_ns, uint64_t *ns)
{
    uint64_t slow = device->host ? device->beside_ns : device->load_ns;
    uint64_t first_after = device->host ? device->host_ns / slow : UINT64_MAX;
    *start_ns = 77 + ticket * slow;
    *ns = ticket > 0 && ticket >= first_after ? device->after_ns : slow;
    return OK;
}

static Status time_host(Device *device, const FfnShape *shape, const HostJob *jobs, uint32_t n_jobs,
                        uint64_t *ns)
{
    (void)shape;
    for (uint32_t i = 0; i < n_jobs; i++)
        assert_non_null(jobs[i].kept);
    device->host = device->n_loads > 0;
    *ns = device->host ? device->host_ns : ALONE_NS;
    return OK;
}

static const Backend BACKEND = {
    .load = load, .wait = wait, .load_time = load_time, .time_host = time_host};

/* Experts of a layer that is DEVICE's, with D_FF. */
static void time_beside(Device *device, uint32_t d_ff, double *host, double *slow)
{
    const FfnShape shape = {.d_model = 1024, .d_ff = d_ff, .activation = ACTIVATION_RELU};
    static const unsigned char weights[EXPERTS];
    const void *kept[EXPERTS];
    LayerConfig layer = {.moe = true, .experts = EXPERTS, .top_k = 2, .ffn = shape};
    const ModelConfig config = {
        .n_layers = 1, .layers = &layer, .n_moe_layers = 1, .max_experts = EXPERTS};
    const TraceLayer trace_layer = {.experts = EXPERTS, .top_k = 2, .expert_bytes = 1};
    const Plan plan = plan_default();
    LayerSlots layers = {.kept = kept};
    ExpertSlots slots = {.backend = &BACKEND,
                         .device = device,
                         .config = &config,
                         .trace_layers = &trace_layer,
                         .n_layers = 1,
                         .max_tokens = EXPERTS,
                         .weight_bytes = 2,
                         .plan = &plan,
                         .layers = &layers};
    for (uint32_t i = 0; i < EXPERTS; i++)
        kept[i] = &weights[i];
    assert_ok(expert_slots_open(&slots, NULL, 0));
    assert_ok(expert_slots_time_beside(&slots, host, slow));
    expert_slots_close(&slots);
}

static void loads_count_that_are_over_before_the_host_is(void **unused)
{
    (void)unused;
    double host;
    double slow;
    Device device = {.host_ns = 1500, .load_ns = 400, .beside_ns = 500, .after_ns = 100000};
    time_beside(&device, 64, &host, &slow);
    assert_true(host == 1.5);
    assert_true(slow == 1.25);
}

/* An expert alone may take the link longer than the host. */
static void the_first_load_counts_where_none_is_over_before_the_host_is(void **unused)
{
    (void)unused;
    double host;
    double slow;
    Device device = {.host_ns = 1200, .load_ns = 4000, .beside_ns = 5000, .after_ns = 100000};
    time_beside(&device, 1 << 16, &host, &slow);
    assert_true(host == 1.2);
    assert_true(slow == 1.25);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loads_count_that_are_over_before_the_host_is),
        cmocka_unit_test(the_first_load_counts_where_none_is_over_before_the_host_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
