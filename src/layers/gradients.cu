// Elementwise kernels on gradients between layers. Constants: LEN (elements of an image), RELU (1: apply the ReLU
// mask); UPSTREAM_* (see kernels.cuh) for `apply_upstream`.

// Copies a gradient. With RELU, it is zero where the output is zero.
extern "C" __global__ void __launch_bounds__(256) mask(const u64 *members, const Step *now, const float *grad, const float *output, float *to) {
    move_to_member(members, 1, now, grad, output, to);
    u32 e = blockIdx.x * 256 + threadIdx.x;
    if (e < now->count * LEN) to[e] = RELU && output[e] == 0.0f ? 0.0f : grad[e];
}

extern "C" __global__ void __launch_bounds__(256) add(const u64 *members, const Step *now, const float *from, float *to) {
    move_to_member(members, 1, now, from, to);
    u32 e = blockIdx.x * 256 + threadIdx.x;
    if (e < now->count * LEN) to[e] += from[e];
}

#ifdef UPSTREAM_C
extern "C" __global__ void __launch_bounds__(256)
    apply_upstream(const u64 *members, const Step *now, const float *grad, const float *output, const u8 *argmax, float *to) {
    move_to_member(members, 1, now, grad, output, argmax, to);
    const Step s = *now;
    u32 e = blockIdx.x * 256 + threadIdx.x;
    if (e < s.count * LEN) apply_upstream_mask(s, e, grad[e], output[e], argmax, to);
}
#endif
