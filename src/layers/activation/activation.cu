// GELU and SiLU. Constants: LEN (numbers of an image), SILU (1 for SiLU, 0 for GELU).

__device__ __forceinline__ float normal_share(float x) { return 0.5f + 0.5f * erff(x * 0.70710678f); }

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

extern "C" __global__ void __launch_bounds__(256) activate(const u64 *members, const Step *now, const float *x, float *output) {
    move_to_member(members, 1, now, x, output);
    u32 e = blockIdx.x * 256 + threadIdx.x;
    if (e < now->count * LEN) output[e] = x[e] * (SILU ? sigmoid(x[e]) : normal_share(x[e]));
}

extern "C" __global__ void __launch_bounds__(256)
    activate_backward(const u64 *members, const Step *now, const float *grad, const float *x, float *to) {
    move_to_member(members, 1, now, grad, x, to);
    u32 e = blockIdx.x * 256 + threadIdx.x;
    if (e >= now->count * LEN) return;
    float v = x[e], slope;
    if (SILU) {
        float share = sigmoid(v);
        slope = share * (1.0f + v * (1.0f - share));
    } else {
        slope = normal_share(v) + v * 0.3989423f * expf(-0.5f * v * v);
    }
    to[e] = grad[e] * slope;
}
