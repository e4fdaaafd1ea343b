/* Ctrl-C as a flag that long work looks at. */
#ifndef CLI_INTERRUPT_H
#define CLI_INTERRUPT_H

/* From now on the first SIGINT or SIGTERM sets the flag, which starts at 0; a second one kills as
 * usual. The flag lives as long as the program. */
const volatile int *interrupt_watch(void);
/* Gives the signals their default action back. */
void interrupt_unwatch(void);

#endif
