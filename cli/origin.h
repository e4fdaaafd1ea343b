/* Where measurements come from: the command line, the commit of the program, the GPU's driver. */
#ifndef CLI_ORIGIN_H
#define CLI_ORIGIN_H

typedef struct {
    char command[4096];
    char commit[64];
    char driver[64]; /* "": there is none */
} Origin;

/* The version of this machine's GPU driver; "": there is none. */
void origin_driver(char version[64]);
/* PROGRAM is what stands before ARGV[0]: "moebius". */
void origin_of(const char *program, int argc, char **argv, Origin *origin);

#endif
