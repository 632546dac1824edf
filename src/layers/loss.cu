// Softmax and cross-entropy with label smoothing. A thread computes one image, in f64 like layers/loss.rs. Constants:
// CLASSES.

// Computes the probabilities of the logits. Returns the cross-entropy, and in `argmax` the class of the largest logit.
__device__ __forceinline__ double cross_entropy(const float *logits, u32 label, float smoothing, float *probabilities, u32 &argmax) {
    float top = logits[0];
    double largest = -1.0 / 0.0;
    argmax = 0;
    for (u32 c = 0; c < CLASSES; c++) {
        float v = logits[c];
        if (v > largest) largest = v;
        if (beats(v, top)) top = v, argmax = c;
    }
    double sum = 0.0, mean = 0.0;
    for (u32 c = 0; c < CLASSES; c++) {
        double centred = (double)logits[c] - largest;
        mean += centred;
        double e = exp(centred);
        sum += e;
        probabilities[c] = (float)e;
    }
    mean /= CLASSES;
    for (u32 c = 0; c < CLASSES; c++) probabilities[c] = (float)((double)probabilities[c] / sum);
    double s = smoothing, own = (double)logits[label] - largest;
    // Without smoothing, `mean` is not used: it is -inf if a class has probability zero.
    double spread = s > 0.0 ? s * mean : 0.0;
    return log(sum) - (1.0 - s) * own - spread;
}

// Computes the gradient of the mean loss with respect to the logits, the mean loss, and the number of correct
// predictions.
extern "C" __global__ void __launch_bounds__(128)
    train(const u64 *members, const Step *now, ListProgress *progress, const float *logits, float *grad, double *parts, u32 *counter) {
    move_to_member(members, 1, now, progress, logits, grad, parts, counter);
    __shared__ double scratch[128];
    const Step s = *now;
    u32 i = blockIdx.x * 128 + threadIdx.x;
    double loss = 0.0, correct = 0.0;
    if (i < s.count) {
        float p[CLASSES];
        u32 label = s.labels[s.images[i]], argmax;
        loss = cross_entropy(logits + i * CLASSES, label, s.smoothing, p, argmax);
        correct = argmax == label;
        float spread = s.smoothing / (float)CLASSES;
        for (u32 c = 0; c < CLASSES; c++) {
            float own = c == label ? 1.0f - s.smoothing : 0.0f;
            grad[i * CLASSES + c] = (p[c] - own - spread) * s.share;
        }
    }
    loss = block_sum(loss, scratch);
    correct = block_sum(correct, scratch);
    if (threadIdx.x == 0) parts[2 * blockIdx.x] = loss, parts[2 * blockIdx.x + 1] = correct;
    if (!last_block(counter, gridDim.x)) return;
    if (threadIdx.x == 0) {
        loss = correct = 0.0;
        for (u32 b = 0; b < gridDim.x; b++) loss += __ldcg(parts + 2 * b), correct += __ldcg(parts + 2 * b + 1);
        progress->loss = loss / s.count;
        progress->correct = (u32)correct;
    }
}

// Computes each image's probabilities and its loss without smoothing, from its logits' average over the views.
extern "C" __global__ void __launch_bounds__(128)
    score(const u64 *members, const Step *now, const float *logits, float *probabilities, float *losses) {
    move_to_member(members, 1, now, logits, probabilities, losses);
    const Step s = *now;
    u32 i = blockIdx.x * 128 + threadIdx.x, images = s.count / s.views;
    if (i >= images) return;
    float average[CLASSES];
    for (u32 c = 0; c < CLASSES; c++) average[c] = 0.0f;
    for (u32 v = 0; v < s.views; v++) {
        // The same as Tta::views in domain/augment.rs.
        float weight = s.views == 1 ? 1.0f : s.views == 2 ? 0.5f : v < 2 ? 0.25f : 0.125f;
        for (u32 c = 0; c < CLASSES; c++) average[c] += weight * logits[(v * images + i) * CLASSES + c];
    }
    u32 argmax;
    losses[i] = (float)cross_entropy(average, s.labels[s.images[i]], 0.0f, probabilities + i * CLASSES, argmax);
}
