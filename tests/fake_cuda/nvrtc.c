/* A stand-in for NVRTC in tests: version MAJOR.MINOR, for compute capabilities 8.0 and 9.0. "Machine code" is the option
 * for the architecture followed by the source. A source with the word `error`, or any source if REFUSE is defined, does
 * not compile. WITHOUT_LOG leaves a function out, as a library that is not NVRTC would. */
#include <stdlib.h>
#include <string.h>

struct program {
    char *source;
    char code[4096];
};

const char *nvrtcGetErrorString(int code) { return code == 6 ? "NVRTC_ERROR_COMPILATION" : "NVRTC_ERROR"; }

int nvrtcVersion(int *major, int *minor) {
    *major = MAJOR;
    *minor = MINOR;
    return 0;
}

int nvrtcGetNumSupportedArchs(int *count) {
    *count = 2;
    return 0;
}

int nvrtcGetSupportedArchs(int *architectures) {
    architectures[0] = 80;
    architectures[1] = 90;
    return 0;
}

int nvrtcCreateProgram(struct program **program, const char *source, const char *name, int headers,
                       const char *const *texts, const char *const *names) {
    *program = calloc(1, sizeof **program);
    (*program)->source = strdup(source);
    return 0;
}

int nvrtcCompileProgram(struct program *program, int count, const char *const *options) {
#ifdef REFUSE
    return 6;
#endif
    strcpy(program->code, options[0]);
    strncat(program->code, program->source, 2000);
    return strstr(program->source, "error") ? 6 : 0;
}

int nvrtcGetProgramLogSize(struct program *program, size_t *bytes) {
    *bytes = sizeof "line 1: no such thing";
    return 0;
}

#ifndef WITHOUT_LOG
int nvrtcGetProgramLog(struct program *program, char *log) {
    strcpy(log, "line 1: no such thing");
    return 0;
}
#endif

int nvrtcGetCUBINSize(struct program *program, size_t *bytes) {
    *bytes = strlen(program->code);
    return 0;
}

int nvrtcGetCUBIN(struct program *program, char *code) {
    memcpy(code, program->code, strlen(program->code));
    return 0;
}

int nvrtcDestroyProgram(struct program **program) {
    free((*program)->source);
    free(*program);
    *program = 0;
    return 0;
}
