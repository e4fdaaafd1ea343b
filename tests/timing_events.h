/* Events of random experts, decided and played. */
#ifndef TESTS_TIMING_EVENTS_H
#define TESTS_TIMING_EVENTS_H

#include "tests/timing_machine.h"

typedef struct {
    uint16_t experts[EXPERTS];
    uint32_t rows[EXPERTS];
    BufferAction actions[8 * EXPERTS];
    uint32_t n_actions;
    TimingEvent event;
} RandomEvent;

static inline void random_event(uint64_t *random, ExpertBuffer *buffer, uint32_t layer,
                                RandomEvent *event)
{
    uint32_t n = 0;
    for (uint16_t e = 0; e < EXPERTS; e++)
        if (random_below(random, 3) == 0 || (n == 0 && e + 1 == EXPERTS)) {
            event->experts[n] = e;
            event->rows[n++] = 1 + random_below(random, 3);
        }
    event->event =
        (TimingEvent){.layer_index = layer, .n = n, .experts = event->experts, .rows = event->rows};
    const BufferEvent asked = {.layer_index = layer, .n = n, .experts = event->experts};
    assert_true(buffer_max_actions(buffer, n) <= 8 * EXPERTS);
    buffer_event(buffer, &asked, NULL, event->actions, &event->n_actions);
}

#endif
