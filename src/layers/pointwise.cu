// What is done number by number. Constants: LEN (numbers of an image), RELU; DROP, DROP_LIVE, DROP_THRESHOLD, DROP_SCALE;
// BEFORE_* (see kernels.cuh) for `arriving`.

extern "C" __global__ void __launch_bounds__(256) rectify(const Step *now, const float *x, float *output) {
    u32 e = blockIdx.x * 256 + threadIdx.x;
    if (e < now->count * LEN) output[e] = relu(x[e]);
}

// What ReLU let through of a gradient.
extern "C" __global__ void __launch_bounds__(256) mask(const Step *now, const float *grad, const float *output, float *to) {
    u32 e = blockIdx.x * 256 + threadIdx.x;
    if (e < now->count * LEN) to[e] = RELU && output[e] == 0.0f ? 0.0f : grad[e];
}

// Dropout: the same in both directions.
extern "C" __global__ void __launch_bounds__(256) drop(const Step *now, const float *from, float *to) {
    const Step s = *now;
    u32 e = blockIdx.x * 256 + threadIdx.x;
    if (e >= s.count * LEN) return;
    u32 threshold = s.number == 0 ? 0 : DROP_LIVE ? s.threshold : DROP_THRESHOLD;
    to[e] = from[e] * dropped(s, DROP, threshold, DROP_LIVE ? s.scale : DROP_SCALE, e);
}

// A residual block's sum.
extern "C" __global__ void __launch_bounds__(256) sum(const Step *now, const float *a, const float *b, float *output) {
    u32 e = blockIdx.x * 256 + threadIdx.x;
    if (e >= now->count * LEN) return;
    float v = a[e] + b[e];
    output[e] = RELU ? relu(v) : v;
}

extern "C" __global__ void __launch_bounds__(256) add(const Step *now, const float *from, float *to) {
    u32 e = blockIdx.x * 256 + threadIdx.x;
    if (e < now->count * LEN) to[e] += from[e];
}

#ifdef BEFORE_C
extern "C" __global__ void __launch_bounds__(256) arriving(const Step *now, const float *grad, const float *output, const u8 *taken, float *to) {
    const Step s = *now;
    u32 e = blockIdx.x * 256 + threadIdx.x;
    if (e < s.count * LEN) arrive(s, e, grad[e], output[e], taken, to);
}
#endif
