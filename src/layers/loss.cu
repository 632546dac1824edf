// Softmax and cross-entropy with label smoothing; a thread does one image, in f64 as layers/loss.rs does. Constants:
// CLASSES.

// From logits to probabilities; the cross-entropy, and in `largest` the class of the largest logit.
__device__ __forceinline__ double cross_entropy(const float *logits, u32 label, float smoothing, float *probabilities, u32 &largest) {
    float top = logits[0];
    double most = -1.0 / 0.0;
    largest = 0;
    for (u32 c = 0; c < CLASSES; c++) {
        float v = logits[c];
        if (v > most) most = v;
        if (beats(v, top)) top = v, largest = c;
    }
    double sum = 0.0, mean = 0.0;
    for (u32 c = 0; c < CLASSES; c++) {
        double centred = (double)logits[c] - most;
        mean += centred;
        double e = exp(centred);
        sum += e;
        probabilities[c] = (float)e;
    }
    mean /= CLASSES;
    for (u32 c = 0; c < CLASSES; c++) probabilities[c] = (float)((double)probabilities[c] / sum);
    double s = smoothing, own = (double)logits[label] - most;
    // Without smoothing, a class of probability zero (mean of -inf) has no say.
    double spread = s > 0.0 ? s * mean : 0.0;
    return log(sum) - (1.0 - s) * own - spread;
}

// The gradient of the mean loss with respect to the logits, the mean loss and the number of right answers.
extern "C" __global__ void __launch_bounds__(128) train(const Step *now, State *state, const float *logits, float *grad, double *parts,
                                                        u32 *counter) {
    __shared__ double scratch[128];
    const Step s = *now;
    u32 i = blockIdx.x * 128 + threadIdx.x;
    double loss = 0.0, right = 0.0;
    if (i < s.count) {
        float p[CLASSES];
        u32 label = s.labels[s.images[i]], largest;
        loss = cross_entropy(logits + i * CLASSES, label, s.smoothing, p, largest);
        right = largest == label;
        float spread = s.smoothing / (float)CLASSES;
        for (u32 c = 0; c < CLASSES; c++) {
            float own = c == label ? 1.0f - s.smoothing : 0.0f;
            grad[i * CLASSES + c] = (p[c] - own - spread) * s.share;
        }
    }
    loss = block_sum(loss, scratch);
    right = block_sum(right, scratch);
    if (threadIdx.x == 0) parts[2 * blockIdx.x] = loss, parts[2 * blockIdx.x + 1] = right;
    if (!last_block(counter, gridDim.x)) return;
    if (threadIdx.x == 0) {
        loss = right = 0.0;
        for (u32 b = 0; b < gridDim.x; b++) loss += __ldcg(parts + 2 * b), right += __ldcg(parts + 2 * b + 1);
        state->loss = loss / s.count;
        state->correct = (u32)right;
    }
}

// Probabilities and losses without smoothing.
extern "C" __global__ void __launch_bounds__(128) score(const Step *now, const float *logits, float *probabilities, float *losses) {
    const Step s = *now;
    u32 i = blockIdx.x * 128 + threadIdx.x;
    if (i >= s.count) return;
    u32 largest;
    losses[i] = (float)cross_entropy(logits + i * CLASSES, s.labels[s.images[i]], 0.0f, probabilities + i * CLASSES, largest);
}
