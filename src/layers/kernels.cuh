// The beginning of every kernel's source. Sizes are constants: each use of a source is compiled with its own `#define`
// lines before this text. Values that change from step to step are in device memory (Step), so that a captured graph of
// launches stays valid. The sources are CUDA C++ for NVRTC and include no headers. A host compiler can compile them
// too, given definitions of CUDA's built-ins (blockIdx, __syncthreads, mma_tf32 and so on). The structs Step, StepOutcome
// and ListProgress come from backend/gpu/records.rs and precede this text.

#ifndef HOST_SHIM

__device__ __forceinline__ u32 to_tf32(float v) {
    u32 r;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(v));
    return r;
}

// Converts two numbers to bf16; `low` is in the lower half of the result.
__device__ __forceinline__ u32 to_bf16(float low, float high) {
    u32 r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

// c += a * b for a 16 x 8 x 8 product, distributed over a warp as the PTX manual defines for mma.m16n8k8.
__device__ __forceinline__ void mma_tf32(float *c, const u32 *a, const u32 *b) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// c += a * b for a 16 x 8 x 16 product (mma.m16n8k16).
__device__ __forceinline__ void mma_bf16(float *c, const u32 *a, const u32 *b) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Begins to copy 16 bytes from device memory to shared memory; without `inside`, `from` is not read and the bytes are
// zero. The copies that a thread has begun since its last commit are a group.
__device__ __forceinline__ void copy_async_16(float *to, const float *from, bool inside) {
    u32 at = (u32)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(inside ? 16 : 0) : "memory");
}

// The same of 4 bytes.
__device__ __forceinline__ void copy_async_4(float *to, const float *from, bool inside) {
    u32 at = (u32)__cvta_generic_to_shared(to);
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(at), "l"(from), "r"(inside ? 4 : 0) : "memory");
}

__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until all but the last `groups` groups of the calling thread's copies are done. Other threads see them after a
// barrier.
template <int groups> __device__ __forceinline__ void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

// Declares `type *name`, the block's dynamic shared memory. The launch sets its size.
#define dynamic_shared(type, name)                            \
    extern __shared__ __align__(16) unsigned char name##_bytes[]; \
    type *name = (type *)name##_bytes

// In a launch that starts early: waits until all earlier launches have ended and their writes are visible.
__device__ __forceinline__ void wait_for_earlier_launches() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

#endif

// The beginning of every kernel. A launch may work on several members: networks of one architecture, each in its own
// memory, which is laid out alike. Blocks of one member follow those of another in z, of which a member has `grid_z`.
// `members` has what to add to the pointers for each member; it is null in a launch for one member, whose pointers are
// right as they are. Null pointers stay null. A kernel with more than one block in z must use blockIdx.z % grid_z.
template <class... Pointers> __device__ __forceinline__ void move_to_member(const u64 *members, u32 grid_z, Pointers &...pointers) {
    u64 distance = members ? members[blockIdx.z / grid_z] : 0;
    // Not by way of integers: the compiler would lose that the pointers are to device memory.
    ((pointers = pointers ? (Pointers)((const u8 *)pointers + distance) : pointers), ...);
}

// Whether this block is the last of `blocks` blocks to call this function. It then sees the writes of all others. The
// counter is zero before the first and after the last call. All threads of the block must call it.
__device__ __forceinline__ bool last_block(u32 *counter, u32 blocks) {
    __shared__ u32 is_last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        is_last = atomicAdd(counter, 1u) == blocks - 1;
        if (is_last) *counter = 0;
    }
    __syncthreads();
    bool last = is_last != 0;
    __threadfence();
    __syncthreads();
    return last;
}

// The beginning of part `i` when `total` items are divided into `parts` parts.
__device__ __forceinline__ u32 cut(u64 total, u32 parts, u32 i) { return (u32)(total * i / parts); }

// max(v, 0); NaN stays NaN.
__device__ __forceinline__ float relu(float v) { return v < 0.0f ? 0.0f : v; }

// Whether v replaces `best` as the largest value. Of equal values the first is kept, and NaN is larger than every
// number.
__device__ __forceinline__ bool beats(float v, float best) { return v > best || (v != v && best == best); }

// One block of Philox4x32-10: the four random words of domain/rng.rs.
struct Words {
    u32 at[4];
};

__device__ __forceinline__ Words random_block(u64 seed, u32 stream, u64 step, u32 index) {
    u32 c0 = index, c1 = (u32)step, c2 = (u32)(step >> 32), c3 = stream;
    u32 k0 = (u32)seed, k1 = (u32)(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; round++) {
        u64 a = (u64)0xD2511F53u * c0, b = (u64)0xCD9E8D57u * c2;
        u32 n0 = (u32)(b >> 32) ^ c1 ^ k0, n2 = (u32)(a >> 32) ^ c3 ^ k1;
        c1 = (u32)b;
        c3 = (u32)a;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    Words w = {{c0, c1, c2, c3}};
    return w;
}

// The factor by which dropout multiplies element `index` of its layer's output: 0 or `scale`. An element is dropped if
// the upper 24 bits of its random word are below `threshold`.
__device__ __forceinline__ float dropped(const Step &s, u32 stream, u32 threshold, float scale, u32 index) {
    if (threshold == 0) return 1.0f;
    Words w = random_block(s.seed, stream, s.number, index / 4);
    return w.at[index % 4] >> 8 >= threshold ? scale : 0.0f;
}

// Returns the sum of `v` over the block, always added in the same order. `scratch` has one element for each thread. All
// threads of the block must call it.
__device__ __forceinline__ double block_sum(double v, double *scratch) {
    u32 t = threadIdx.x;
    scratch[t] = v;
    __syncthreads();
    for (u32 half = blockDim.x / 2; half > 0; half /= 2) {
        if (t < half) scratch[t] += scratch[t + half];
        __syncthreads();
    }
    double sum = scratch[0];
    __syncthreads();
    return sum;
}

#ifdef UPSTREAM_C
// Undoes the ReLU, dropout and 2x2 pooling with which the previous layer ends: takes the gradient `g` of element e of
// that layer's output (UPSTREAM_H x UPSTREAM_W x UPSTREAM_C) and writes the gradient of its convolution's result
// (UPSTREAM_OH x UPSTREAM_OW). `argmax` has the position in the pooling window that was the largest. The gradients of
// rows and columns that pooling ignores at odd edges are initialised to zero.
__device__ __forceinline__ void apply_upstream_mask(const Step &s, u32 e, float g, float output, const u8 *argmax, float *grad) {
    float scale = UPSTREAM_DROP == 0 ? 1.0f : UPSTREAM_DROP == 1 ? s.scale : UPSTREAM_SCALE;
    g = UPSTREAM_RELU && output == 0.0f ? 0.0f : g * scale;
    if (UPSTREAM_POOL) {
        u32 c = e % UPSTREAM_C, pixel = e / UPSTREAM_C;
        u32 x = pixel % UPSTREAM_W, y = pixel / UPSTREAM_W % UPSTREAM_H, image = pixel / (UPSTREAM_W * UPSTREAM_H);
        u64 first = ((u64)(image * UPSTREAM_OH + 2 * y) * UPSTREAM_OW + 2 * x) * UPSTREAM_C + c;
        u32 place = argmax[e];
        grad[first] = place == 0 ? g : 0.0f;
        grad[first + UPSTREAM_C] = place == 1 ? g : 0.0f;
        grad[first + UPSTREAM_OW * UPSTREAM_C] = place == 2 ? g : 0.0f;
        grad[first + UPSTREAM_OW * UPSTREAM_C + UPSTREAM_C] = place == 3 ? g : 0.0f;
    } else {
        grad[e] = g;
    }
}
#endif
