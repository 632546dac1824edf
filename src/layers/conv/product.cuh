// Products of matrices, tile by tile. Precedes conv.cu.
//
// Constants of the variant (variant.rs): a block of THREADS threads makes a tile of BM x BN results, BK terms of the sums
// at a time, which it holds STAGES times; LOADS says how they come: 0 through registers, 1 by asynchronous copies, 2 as
// with 1, but the pixels that a rectangle of RIM_H x RIM_W pixels of the result depends on once for all terms. ROOM is
// the size of the shared memory in floats; a multiprocessor must have registers for MIN_BLOCKS blocks (0: the compiler
// decides). No variant changes the order in which a sum is added, except by the number of blocks that share it.

constexpr int BK = 32;
// Lines in shared memory: padded so that the tensor cores' reads hit different banks.
constexpr int LINE_K = BK + 4, LINE_M = BM + 8, LINE_N = BN + 8, LINE_C = BN + 4;
constexpr int TILE_A = BM * LINE_K, TILE_B = BK * LINE_N;
// Groups of four neighbouring elements that a thread copies of each tile.
constexpr int FOURS_A = BM * BK / 4 / THREADS, FOURS_B = BK * BN / 4 / THREADS;
// Lines of the results that a thread has, and its results.
#if PRECISION == 0
constexpr int THREADS_X = BN / 4, THREADS_Y = THREADS / THREADS_X, LINES = BM / THREADS_Y;
#else
constexpr int WARPS_X = BN / 32, WARPS_Y = THREADS / 32 / WARPS_X, LINES = BM / WARPS_Y / 8;
#endif
constexpr int SUMS = BM * BN / THREADS;
// Left alone, the compiler for compute capability 10.0 spills registers to hold five blocks.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int RESIDENT = MIN_BLOCKS == 0 ? 4 : MIN_BLOCKS;
#else
constexpr int RESIDENT = MIN_BLOCKS;
#endif

static_assert(BM * LINE_K >= BK * LINE_M, "one room for both orders of a");
static_assert(ROOM >= BM * LINE_C && ROOM * 4 >= THREADS * 8, "results and sums of squares take the operands' room");
// Stages of whole tiles of both operands. Those of the weights alone may be more.
constexpr int WHOLE_STAGES = LOADS == 2 && STAGES > 3 ? 3 : STAGES;
static_assert((FORWARD && LOADS == 2) || ROOM >= WHOLE_STAGES * (TILE_A + TILE_B), "room for all stages");
static_assert(FOURS_A * THREADS * 4 == BM * BK && FOURS_B * THREADS * 4 == BK * BN, "every thread copies as many");

__device__ __forceinline__ float4 zero4() {
    float4 z = {0.0f, 0.0f, 0.0f, 0.0f};
    return z;
}

__device__ __forceinline__ float4 load4(const float *at) { return *(const float4 *)at; }

// Where four neighbouring elements of an operand go: to registers, or to shared memory. Elements that are not `inside`
// are zero and not read.
struct ToRegisters {
    float v[4];

    __device__ __forceinline__ void four(const float *at, bool inside) {
        float4 r = inside ? load4(at) : zero4();
        v[0] = r.x, v[1] = r.y, v[2] = r.z, v[3] = r.w;
    }
    __device__ __forceinline__ void one(int i, const float *at, bool inside) { v[i] = inside ? *at : 0.0f; }
    __device__ __forceinline__ void constant(int i, float value) { v[i] = value; }
    __device__ __forceinline__ float4 all() const {
        float4 r = {v[0], v[1], v[2], v[3]};
        return r;
    }
};

struct ToShared {
    float *to;

    __device__ __forceinline__ void four(const float *at, bool inside) { copy_async_16(to, at, inside); }
    __device__ __forceinline__ void one(int i, const float *at, bool inside) { copy_async_4(to + i, at, inside); }
    __device__ __forceinline__ void constant(int i, float value) { to[i] = value; }
};

// The line and the term of a thread's group j of four elements of a. By rows the four are terms, else lines.
template <bool BY_ROWS> __device__ __forceinline__ int line_of_group(int j) {
    return BY_ROWS ? threadIdx.x / (BK / 4) + THREADS / (BK / 4) * j : threadIdx.x % (BM / 4) * 4;
}
template <bool BY_ROWS> __device__ __forceinline__ int term_of_group(int j) {
    return BY_ROWS ? threadIdx.x % (BK / 4) * 4 : threadIdx.x / (BM / 4) + THREADS / (BM / 4) * j;
}
// The same of b, whose four are columns.
__device__ __forceinline__ int column_of_group() { return threadIdx.x % (BN / 4) * 4; }
__device__ __forceinline__ int term_of_b(int j) { return threadIdx.x / (BN / 4) + THREADS / (BN / 4) * j; }

template <bool BY_ROWS> __device__ __forceinline__ float *group_of_a(float *a, int j) {
    int line = line_of_group<BY_ROWS>(j), term = term_of_group<BY_ROWS>(j);
    return BY_ROWS ? a + line * LINE_K + term : a + term * LINE_M + line;
}
__device__ __forceinline__ float *group_of_b(float *b, int j) { return b + term_of_b(j) * LINE_N + column_of_group(); }

// The tile's line of a thread's line i.
template <bool BY_ROWS> __device__ __forceinline__ int line_of(int i) {
#if PRECISION == 0
    int y = threadIdx.x / THREADS_X;
    return BY_ROWS ? y + THREADS_Y * i : y * LINES + i;
#else
    return threadIdx.x / 32 / WARPS_X * (BM / WARPS_Y) + 8 * i + threadIdx.x % 32 / 4;
#endif
}

// A stage of operand a: `one` is the element of a thread's line i and term k + r, where k is a multiple of eight and r
// below eight; `fours` are the terms k to k + 3 of all its lines.
template <bool BY_ROWS> struct Stage {
    const float *a;

    __device__ __forceinline__ float one(int i, int k, int r) const {
        return BY_ROWS ? a[line_of<BY_ROWS>(i) * LINE_K + k + r] : a[(k + r) * LINE_M + line_of<BY_ROWS>(i)];
    }
    __device__ __forceinline__ void fours(int k, float (&v)[4][LINES]) const {
        if (BY_ROWS) {
#pragma unroll
            for (int i = 0; i < LINES; i++) {
                float4 r = load4(a + line_of<BY_ROWS>(i) * LINE_K + k);
                v[0][i] = r.x, v[1][i] = r.y, v[2][i] = r.z, v[3][i] = r.w;
            }
        } else {
#pragma unroll
            for (int kk = 0; kk < 4; kk++)
#pragma unroll
                for (int i = 0; i < LINES; i += 4) {
                    float4 r = load4(a + (k + kk) * LINE_M + line_of<BY_ROWS>(i));
                    v[kk][i] = r.x, v[kk][i + 1] = r.y, v[kk][i + 2] = r.z, v[kk][i + 3] = r.w;
                }
        }
    }
};

// Adds BK terms to a thread's sums.
template <class A> __device__ __forceinline__ void multiply(const A &a, const float *b, float *sum) {
#if PRECISION == 0
    int x = threadIdx.x % THREADS_X;
#pragma unroll 4
    for (int k = 0; k < BK; k += 4) {
        float av[4][LINES];
        a.fours(k, av);
#pragma unroll
        for (int kk = 0; kk < 4; kk++) {
            float4 v = load4(b + (k + kk) * LINE_N + x * 4);
#pragma unroll
            for (int i = 0; i < LINES; i++) {
                float f = av[kk][i];
                sum[4 * i] = fmaf(f, v.x, sum[4 * i]);
                sum[4 * i + 1] = fmaf(f, v.y, sum[4 * i + 1]);
                sum[4 * i + 2] = fmaf(f, v.z, sum[4 * i + 2]);
                sum[4 * i + 3] = fmaf(f, v.w, sum[4 * i + 3]);
            }
        }
    }
#else
    int group = threadIdx.x % 32 / 4, member = threadIdx.x % 4;
    b += threadIdx.x / 32 % WARPS_X * 32;
#if PRECISION == 1
#pragma unroll
    for (int k = 0; k < BK; k += 8) {
        u32 bv[4][2];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float *at = b + (k + member) * LINE_N + 8 * j + group;
            bv[j][0] = to_tf32(at[0]), bv[j][1] = to_tf32(at[4 * LINE_N]);
        }
#pragma unroll
        for (int i = 0; i < LINES; i += 2) {
            u32 av[4] = {to_tf32(a.one(i, k, member)), to_tf32(a.one(i + 1, k, member)), to_tf32(a.one(i, k, member + 4)),
                         to_tf32(a.one(i + 1, k, member + 4))};
#pragma unroll
            for (int j = 0; j < 4; j++) mma_tf32(sum + 8 * i + 4 * j, av, bv[j]);
        }
    }
#else
#pragma unroll
    for (int k = 0; k < BK; k += 16) {
        u32 bv[4][2];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float *at = b + (k + 2 * member) * LINE_N + 8 * j + group;
            bv[j][0] = to_bf16(at[0], at[LINE_N]), bv[j][1] = to_bf16(at[8 * LINE_N], at[9 * LINE_N]);
        }
#pragma unroll
        for (int i = 0; i < LINES; i += 2) {
            u32 av[4];
#pragma unroll
            for (int h = 0; h < 4; h++) {
                int line = i + h % 2, term = k + h / 2 * 8;
                av[h] = to_bf16(a.one(line, term, 2 * member), a.one(line, term, 2 * member + 1));
            }
#pragma unroll
            for (int j = 0; j < 4; j++) mma_bf16(sum + 8 * i + 4 * j, av, bv[j]);
        }
    }
#endif
#endif
}

// Writes a thread's sums to `room` as lines of LINE_C. All threads of the block must call it.
template <bool BY_ROWS> __device__ __forceinline__ void write_sums(const float *sum, float *room) {
#pragma unroll
    for (int i = 0; i < LINES; i++) {
        float *line = room + line_of<BY_ROWS>(i) * LINE_C;
#if PRECISION == 0
#pragma unroll
        for (int j = 0; j < 4; j++) line[threadIdx.x % THREADS_X * 4 + j] = sum[4 * i + j];
#else
        line += threadIdx.x / 32 % WARPS_X * 32 + threadIdx.x % 4 * 2;
#pragma unroll
        for (int j = 0; j < 4; j++) line[8 * j] = sum[i / 2 * 16 + 4 * j + i % 2 * 2], line[8 * j + 1] = sum[i / 2 * 16 + 4 * j + i % 2 * 2 + 1];
#endif
    }
    __syncthreads();
}

#if LOADS == 0
// Terms begin..end of the sums, then the results in `room` as BM lines of LINE_C.
template <bool BY_ROWS, class Operands> __device__ __forceinline__ void product(const Operands &from, u32 begin, u32 end, float *room) {
    float sum[SUMS];
#pragma unroll
    for (int i = 0; i < SUMS; i++) sum[i] = 0.0f;
    ToRegisters a[FOURS_A], b[FOURS_B];
    auto fetch = [&](u32 k) {
#pragma unroll
        for (int j = 0; j < FOURS_A; j++) from.a(j, k, end, a[j]);
#pragma unroll
        for (int j = 0; j < FOURS_B; j++) from.b(j, k, end, b[j]);
    };
    auto store = [&](float *stage) {
#pragma unroll
        for (int j = 0; j < FOURS_A; j++) *(float4 *)group_of_a<BY_ROWS>(stage, j) = a[j].all();
#pragma unroll
        for (int j = 0; j < FOURS_B; j++) *(float4 *)group_of_b(stage + TILE_A, j) = b[j].all();
    };
    if (begin < end) {
        fetch(begin);
        store(room);
    }
    __syncthreads();
    int now = 0;
    for (u32 k = begin; k < end; k += BK) {
        bool more = k + BK < end;
        if (more) fetch(k + BK);
        const float *stage = room + now * (TILE_A + TILE_B);
        multiply(Stage<BY_ROWS>{stage}, stage + TILE_A, sum);
        now ^= 1;
        if (more) store(room + now * (TILE_A + TILE_B));
        __syncthreads();
    }
    write_sums<BY_ROWS>(sum, room);
}
#else
// The loop of a product whose operands come by asynchronous copies. `copy` begins the copies of a slice of BK terms from
// term k on into a stage, `add` adds the stage's slice, which begins at term k, to a thread's sums.
template <int stages, class Copy, class Add> __device__ __forceinline__ void pipeline(u32 begin, u32 end, Copy copy, Add add) {
    u32 ahead = begin;
    int to = 0;
#pragma unroll
    for (int i = 0; i < stages - 1; i++) {
        if (ahead < end) copy(ahead, to);
        commit_copies();
        ahead += BK, to++;
    }
    int now = 0;
    for (u32 k = begin; k < end; k += BK) {
        wait_for_copies<stages - 2>();
        // The slice is there for all threads, and none reads the stage before it any more.
        __syncthreads();
        if (ahead < end) copy(ahead, to);
        commit_copies();
        ahead += BK, to = to + 1 == stages ? 0 : to + 1;
        add(k, now);
        now = now + 1 == stages ? 0 : now + 1;
    }
    wait_for_copies<0>();
    // The results take the room of the operands.
    __syncthreads();
}

template <bool BY_ROWS, class Operands> __device__ __forceinline__ void product(const Operands &from, u32 begin, u32 end, float *room) {
    float sum[SUMS];
#pragma unroll
    for (int i = 0; i < SUMS; i++) sum[i] = 0.0f;
    auto copy = [&](u32 k, int to) {
        float *stage = room + to * (TILE_A + TILE_B);
#pragma unroll
        for (int j = 0; j < FOURS_A; j++) {
            ToShared group = {group_of_a<BY_ROWS>(stage, j)};
            from.a(j, k, end, group);
        }
#pragma unroll
        for (int j = 0; j < FOURS_B; j++) {
            ToShared group = {group_of_b(stage + TILE_A, j)};
            from.b(j, k, end, group);
        }
    };
    auto add = [&](u32, int now) {
        const float *stage = room + now * (TILE_A + TILE_B);
        multiply(Stage<BY_ROWS>{stage}, stage + TILE_A, sum);
    };
    pipeline<WHOLE_STAGES>(begin, end, copy, add);
    write_sums<BY_ROWS>(sum, room);
}
#endif

// Adds parts, `stride` parts from each other, in their order, and puts the sum into `room`. About sixteen loads of a thread
// are under way at a time: one after the other, their latency would be most of a small launch's time.
__device__ __forceinline__ void add_parts(float *room, const float *parts, u32 count, u32 stride) {
    constexpr int FOURS_C = BM * BN / 4 / THREADS;
    float4 sum[FOURS_C];
#pragma unroll
    for (int j = 0; j < FOURS_C; j++) sum[j] = zero4();
#pragma unroll (16 / FOURS_C)
    for (u32 i = 0; i < count; i++) {
        const float *part = parts + (u64)i * stride * (BM * BN) + 4 * threadIdx.x;
#pragma unroll
        for (int j = 0; j < FOURS_C; j++) {
            float4 v = __ldcg((const float4 *)(part + 4 * THREADS * j));
            sum[j].x += v.x, sum[j].y += v.y, sum[j].z += v.z, sum[j].w += v.w;
        }
    }
#pragma unroll
    for (int j = 0; j < FOURS_C; j++) {
        int e = 4 * (threadIdx.x + THREADS * j);
        *(float4 *)(room + e / BN * LINE_C + e % BN) = sum[j];
    }
    __syncthreads();
}

__device__ __forceinline__ void write_part(const float *room, float *part) {
    for (int e = 4 * threadIdx.x; e < BM * BN; e += 4 * THREADS) *(float4 *)(part + e) = load4(room + e / BN * LINE_C + e % BN);
}

// Adds the partial sums of the blocks that share a tile (split-K): those of up to 32 blocks, then those of up to 32 such
// groups. Returns true in the last block, whose `room` then holds the total.
template <u32 splits> __device__ __forceinline__ bool split_k_reduce(float *room, float *parts, u32 *counters, u32 tile, u32 split) {
    if (splits == 1) return true;
    constexpr u32 GROUPS = (splits + 31) / 32;
    float *of_tile = parts + (u64)tile * splits * (BM * BN);
    u32 group = split / 32, in_group = splits - group * 32 < 32 ? splits - group * 32 : 32;
    float *of_group = of_tile + (u64)group * 32 * (BM * BN);
    write_part(room, of_group + split % 32 * (BM * BN));
    counters += tile * (GROUPS == 1 ? 1 : GROUPS + 1);
    if (!last_block(counters + group, in_group)) return false;
    add_parts(room, of_group, in_group, 1);
    if (GROUPS == 1) return true;
    write_part(room, of_group);
    if (!last_block(counters + GROUPS, GROUPS)) return false;
    add_parts(room, of_tile, GROUPS, 32);
    return true;
}
