/* Simulated time on the command line: the hardware profile, the model, the timeline. */
#ifndef CLI_TIME_INPUT_H
#define CLI_TIME_INPUT_H

#include "analysis/timeline.h"
#include "cli/options.h"
#include "sim/plan_timer.h"

typedef struct {
    const char *hardware;      /* NULL: no time is simulated */
    const char *model;         /* NULL: the trace's */
    const char *timeline;      /* NULL: none is written */
    bool keeps_steps;          /* the time of each is wanted */
    const ServiceGoals *goals; /* of requests that arrive; NULL: none */
} TimeInput;

#define TIME_OPTIONS(input)                                                                        \
    TEXT_OPTION("hardware", "FILE", "simulate time, with the costs that calibrate measured",       \
                &(input)->hardware),                                                               \
        TEXT_OPTION("model", "DIR|shape:NAME",                                                     \
                    "with --hardware: whose costs are looked up (default: the trace's model)",     \
                    &(input)->model)
#define TIMELINE_OPTION(input)                                                                     \
    TEXT_OPTION("timeline", "FILE",                                                                \
                "with --hardware: write the time line, in the Chrome trace format (Perfetto)",     \
                &(input)->timeline, .writes = true)

/* A step that was played. */
typedef struct {
    uint32_t step; /* the trace's number */
    Phase phase;
    uint32_t tokens;
    uint64_t start_ns;
    uint64_t duration_ns;
    uint64_t exposed_load_ns;
    uint64_t bytes_loaded;
} SimulatedStep;

/* A profile, the features of a trace, and a plan's time on it. Zero-initialise. */
typedef struct {
    Hardware hardware;
    char *model;            /* that the trace names */
    bool forced;            /* its routing was laid on the model */
    TraceFeatures features; /* the caller's trace_input_timed() gives them */
    RebatchTokens *tokens;  /* of plan_timer_input() */
    Timing *timing;
    TimingMemory memory;
    Timeline *timeline;
    bool keeps_steps;
    SimulatedStep *steps; /* [n_steps] where they are kept */
    size_t n_steps;
    size_t steps_room;
} SimulatedTime;

/* Puts what the profile says of the trace at PATH in the place of what PLAN leaves to be measured;
 * nothing without a profile. */
Status time_input_measure(const TimeInput *input, const char *path, Plan *plan);

/* Loads the profile, and of the traces what plans that are batched as PLAN need besides
 * TIME->features; *TIMER is valid until TIME is closed. */
Status plan_timer_input(const TimeInput *input, const char *const *paths, size_t count,
                        const Plan *plan, SimulatedTime *time, PlanTimer *timer);

/* Loads the profile; the model is INPUT's or that of the trace at PATH. */
Status simulated_time_open(const TimeInput *input, const char *path, SimulatedTime *time);
/* Replays steps FIRST to END - 1 of TRACE and plays them; writes the time line. */
Status simulated_time_run(SimulatedTime *time, const TimeInput *input, const PackedTrace *trace,
                          uint64_t first, const Plan *plan, const ReplayFuture *future,
                          ReplayResult *result);
/* Continuous batching: loads the profile, lets the requests of the traces arrive as PLAN says, and
 * plays the steps that come of it; writes the time line. SERVED is freed with served_plan_free().
 */
Status simulated_time_serve(SimulatedTime *time, const TimeInput *input, const char *const *paths,
                            size_t count, const Plan *plan, ServedPlan *served);
void simulated_time_close(SimulatedTime *time);
/* Adds a step that was played to the simulator's process of TIMELINE. */
Status simulated_step_draw(Timeline *timeline, const StepFeatures *features, const StepTime *step);
/* Tables of phases and operations, and what is to be said of the costs. */
Status simulated_time_print(const SimulatedTime *time, uint64_t simulated_ns);
/* Adds "time", with "per_step" where steps are kept. */
Status simulated_time_json(const SimulatedTime *time, cJSON *json);

#endif
