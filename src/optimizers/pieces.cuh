// What the optimizers' kernels share. The parameters stand one after the other, as do their gradients and each of their
// state tensors; they are cut into pieces. Constant: SQUARES (how many sums of squares the gradients' kernels left).

struct Piece {
    u32 begin, end;   // in the row of all parameters
    u32 first;        // where its parameter begins there
    u32 group;        // its parameter's group, a number of ParameterGroup
    u32 matrix;       // 1 + the number of its matrix of filters, or 0
    u32 inputs;       // of a weight: its inputs (of a dense layer: channels times pixels); 0 for what is not packed
    u32 outputs;
    u32 taps;         // the kernel's places
    u32 channels;     // of a dense layer's input (else its inputs)
    u32 pixels;       // of a dense layer's input (else 1)
    u32 wide_outputs, wide_inputs; // rows of the packed weights
    u32 forward, backward;         // where they begin; `backward` is 0 where the input's gradient is not wanted
    float rate_factor;             // multiplies its learning rate; 0 freezes it
};

// The rule's own coefficients of one group of parameters (MAX_COEFFICIENTS of optimizers/mod.rs).
#define COEFFICIENTS 8

// The norm of the whole gradient, for every thread of the block.
__device__ __forceinline__ double gradient_norm(const double *squares, double *scratch) {
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < SQUARES; i += 256) sum += squares[i];
    return sqrt(block_sum(sum, scratch));
}

// `clip_factor` of optimizers/mod.rs.
__device__ __forceinline__ float clip_factor(double max, double norm) {
    if (!(max > 0.0)) return 1.0f;
    double factor = max / (norm + 1e-6);
    return (float)(factor < 1.0 ? factor : 1.0);
}
