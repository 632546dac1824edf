// The directions of Muon (optimizers/muon.rs): for each matrix of filters, its momentum looked ahead, divided by its norm,
// and three Newton-Schulz steps. The matrices X stand in a row of numbers like the parameters'. Nothing that lasts is
// written: `update` does that. Constants: SQUARES (see pieces.cuh), MATRICES (their number).

// A matrix [small, large], a row for each row of the shorter side.
struct Matrix {
    u32 begin;                      // in the row of all parameters
    u32 rows;                       // of the filters: their number
    u32 small, large;
    u32 row_stride, column_stride;  // of X
    u32 square;                     // where its square matrices begin
    u32 first_piece, pieces;        // of the optimizer's pieces
};

#define TILE 32

// g + momentum * (momentum * buffer + g) for the clipped gradient g; the sums of squares of it and of the weights.
extern "C" __global__ void __launch_bounds__(256)
    look_ahead(const u64 *members, const Step *now, const Piece *pieces, const float *weights, const float *grads, const float *state,
               const double *squares, float *x, double *parts) {
    move_to_member(members, 1, now, pieces, weights, grads, state, squares, x, parts);
    __shared__ double scratch[256];
    const Piece p = pieces[blockIdx.x];
    if (p.matrix == 0) return;
    const float clip = clip_factor(now->clip_norm, gradient_norm(squares, scratch));
    const float momentum = now->own[COEFFICIENTS * p.group + 1];
    double ahead = 0.0, weight = 0.0;
    for (u32 e = p.begin + threadIdx.x; e < p.end; e += 256) {
        float g = clip * grads[e], u = g + momentum * (momentum * state[e] + g), w = weights[e];
        x[e] = u;
        ahead += (double)u * u;
        weight += (double)w * w;
    }
    ahead = block_sum(ahead, scratch);
    weight = block_sum(weight, scratch);
    if (threadIdx.x == 0) parts[2 * blockIdx.x] = ahead, parts[2 * blockIdx.x + 1] = weight;
}

// Divides X by its norm; the factor that gives the weights the norm sqrt(rows).
extern "C" __global__ void __launch_bounds__(256)
    normalise(const u64 *members, const Piece *pieces, const Matrix *matrices, float *x, const double *parts, float *weight_scales) {
    move_to_member(members, 1, pieces, matrices, x, parts, weight_scales);
    __shared__ double scratch[256];
    const Piece p = pieces[blockIdx.x];
    if (p.matrix == 0) return;
    const Matrix m = matrices[p.matrix - 1];
    double ahead = 0.0, weight = 0.0;
    for (u32 i = threadIdx.x; i < m.pieces; i += 256) {
        ahead += parts[2 * (m.first_piece + i)];
        weight += parts[2 * (m.first_piece + i) + 1];
    }
    ahead = block_sum(ahead, scratch);
    weight = block_sum(weight, scratch);
    const float scale = (float)(1.0 / (sqrt(ahead) + 1e-7));
    for (u32 e = p.begin + threadIdx.x; e < p.end; e += 256) x[e] *= scale;
    if (blockIdx.x == m.first_piece && threadIdx.x == 0) {
        weight_scales[p.matrix - 1] = weight > 0.0 ? (float)(sqrt((double)m.rows) / sqrt(weight)) : 1.0f;
    }
}

// A tile of the product of a [rows, inner] and b [inner, columns], four numbers a thread: those of column `x` of the tile
// in its rows `y`, `y + 8`, `y + 16` and `y + 24`.
__device__ __forceinline__ void tile_product(float sums[4], const float *a, u32 a_rows, u32 a_columns, u32 rows, const float *b, u32 b_rows,
                                             u32 b_columns, u32 columns, u32 inner) {
    __shared__ float left[TILE][TILE + 1], right[TILE][TILE + 1];
    const u32 x = threadIdx.x % TILE, y = threadIdx.x / TILE, row = blockIdx.y * TILE, column = blockIdx.x * TILE;
    for (u32 i = 0; i < 4; i++) sums[i] = 0.0f;
    for (u32 k = 0; k < inner; k += TILE) {
        for (u32 i = y; i < TILE; i += 8) {
            left[i][x] = row + i < rows && k + x < inner ? a[(row + i) * a_rows + (k + x) * a_columns] : 0.0f;
            right[i][x] = k + i < inner && column + x < columns ? b[(k + i) * b_rows + (column + x) * b_columns] : 0.0f;
        }
        __syncthreads();
        for (u32 j = 0; j < TILE; j++) {
            float r = right[j][x];
            for (u32 i = 0; i < 4; i++) sums[i] += left[y + 8 * i][j] * r;
        }
        __syncthreads();
    }
}

// S = X * its transpose.
extern "C" __global__ void __launch_bounds__(256) square(const u64 *members, const Matrix *matrices, const float *x, float *products) {
    move_to_member(members, MATRICES, matrices, x, products);
    const Matrix m = matrices[blockIdx.z % MATRICES];
    if (blockIdx.x * TILE >= m.small || blockIdx.y * TILE >= m.small) return;
    float sums[4];
    x += m.begin;
    tile_product(sums, x, m.row_stride, m.column_stride, m.small, x, m.column_stride, m.row_stride, m.small, m.large);
    const u32 column = blockIdx.x * TILE + threadIdx.x % TILE, row = blockIdx.y * TILE + threadIdx.x / TILE;
    for (u32 i = 0; i < 4; i++)
        if (row + 8 * i < m.small && column < m.small) products[m.square + (row + 8 * i) * m.small + column] = sums[i];
}

// P = b S + c S S.
extern "C" __global__ void __launch_bounds__(256) polynomial(const u64 *members, const Matrix *matrices, const float *products, float *polynomials) {
    move_to_member(members, MATRICES, matrices, products, polynomials);
    const Matrix m = matrices[blockIdx.z % MATRICES];
    if (blockIdx.x * TILE >= m.small || blockIdx.y * TILE >= m.small) return;
    float sums[4];
    const float *s = products + m.square;
    tile_product(sums, s, m.small, 1, m.small, s, m.small, 1, m.small, m.small);
    const u32 column = blockIdx.x * TILE + threadIdx.x % TILE, row = blockIdx.y * TILE + threadIdx.x / TILE;
    for (u32 i = 0; i < 4; i++) {
        u32 at = (row + 8 * i) * m.small + column;
        if (row + 8 * i < m.small && column < m.small) polynomials[m.square + at] = -4.7750f * s[at] + 2.0315f * sums[i];
    }
}

// The next X: a X + P X.
extern "C" __global__ void __launch_bounds__(256)
    transform(const u64 *members, const Matrix *matrices, const float *x, const float *polynomials, float *next) {
    move_to_member(members, MATRICES, matrices, x, polynomials, next);
    const Matrix m = matrices[blockIdx.z % MATRICES];
    if (blockIdx.x * TILE >= m.large || blockIdx.y * TILE >= m.small) return;
    float sums[4];
    x += m.begin, next += m.begin;
    tile_product(sums, polynomials + m.square, m.small, 1, m.small, x, m.row_stride, m.column_stride, m.large, m.small);
    const u32 column = blockIdx.x * TILE + threadIdx.x % TILE, row = blockIdx.y * TILE + threadIdx.x / TILE;
    for (u32 i = 0; i < 4; i++) {
        u32 at = (row + 8 * i) * m.row_stride + column * m.column_stride;
        if (row + 8 * i < m.small && column < m.large) next[at] = 3.4445f * x[at] + sums[i];
    }
}
