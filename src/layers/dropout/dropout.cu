// Dropout that is not fused into another layer. Constants: LEN (elements of an image), DROP, DROP_LIVE, DROP_THRESHOLD,
// DROP_SCALE (see dropout/gpu.rs).

// Multiplies by the dropout mask, in the forward and in the backward pass.
extern "C" __global__ void __launch_bounds__(256) dropout(const u64 *members, const Step *now, const float *from, float *to) {
    move_to_member(members, 1, now, from, to);
    const Step s = *now;
    u32 e = blockIdx.x * 256 + threadIdx.x;
    if (e >= s.count * LEN) return;
    u32 threshold = s.number == 0 ? 0 : DROP_LIVE ? s.threshold : DROP_THRESHOLD;
    to[e] = from[e] * dropped(s, DROP, threshold, DROP_LIVE ? s.scale : DROP_SCALE, e);
}
