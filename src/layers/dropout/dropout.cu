// Dropout on its own. Constants: LEN (numbers of an image), DROP, DROP_LIVE, DROP_THRESHOLD, DROP_SCALE.

// Dropout: the same in both directions.
extern "C" __global__ void __launch_bounds__(256) drop(const Step *now, const float *from, float *to) {
    const Step s = *now;
    u32 e = blockIdx.x * 256 + threadIdx.x;
    if (e >= s.count * LEN) return;
    u32 threshold = s.number == 0 ? 0 : DROP_LIVE ? s.threshold : DROP_THRESHOLD;
    to[e] = from[e] * dropped(s, DROP, threshold, DROP_LIVE ? s.scale : DROP_SCALE, e);
}
