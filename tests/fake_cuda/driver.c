/* A stand-in for NVIDIA's driver in tests: it runs CUDA VERSION (12040 is 12.4) and has one GPU of compute capability
 * CAPABILITY (89 is 8.9), or starts with the error START. The GPU can be described and not opened. */
#include <stddef.h>
#include <string.h>

#ifndef START
#define START 0
#endif

int cuInit(unsigned flags) { return START; }

int cuDriverGetVersion(int *version) {
    *version = VERSION;
    return 0;
}

int cuGetErrorString(int code, const char **text) {
    *text = code == 2 ? "out of memory" : code == 803 ? "driver mismatch" : "other";
    return 0;
}

int cuDeviceGetCount(int *count) {
    *count = 1;
    return 0;
}

int cuDeviceGet(int *device, int index) {
    *device = index;
    return index == 0 ? 0 : 101;
}

int cuDeviceGetName(char *name, int bytes, int device) {
    strncpy(name, "Test GPU", bytes);
    return 0;
}

int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    *bytes = 24000000000u;
    return 0;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? CAPABILITY / 10 : attribute == 76 ? CAPABILITY % 10 : 1;
    return 0;
}

int cuDevicePrimaryCtxRetain(void **context, int device) { return 2; }
