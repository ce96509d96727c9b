// Causal attention inside segments on tensor cores: bf16, heads of 64 or 128 numbers. As in FlashAttention-2 (Dao, 2023): scores are
// never stored; the backward pass computes them again, once for the keys and once for the queries, so that no sum depends on the order
// in which blocks run.
//
// A tile is a block's part of one segment: TILE rows from `row` on, of the segment [first, last). Warps own 16 rows of a tile each.
// Operands of mma.m16n8k16: see "Warp Level Matrix Multiply-Accumulate Instructions" in the PTX manual.

struct Tile {
    u32 row, first, last;
};
#define TILE 64
#define TENSOR_THREADS 128
// Keys, or queries, that the backward kernels take together.
#define SHORT_TILE 32
#define LOG2_E 1.4426950408889634f
#define LN_2 0.6931471805599453f

#ifdef HONE_EMULATED
extern unsigned char *dynamic_shared;
#else
extern __shared__ __align__(16) unsigned char dynamic_shared[];

DEVICE float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// c [16,8] += a [16,16] · b [16,8], spread over the warp.
DEVICE void mma(float *c, const u32 *a, const u32 *b) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8x8 matrices out of shared memory; lane l gives the address of row l % 8 of matrix l / 8.
DEVICE void load_matrices(u32 *r, const bf16 *row) {
    u32 address = u32(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}
DEVICE void load_matrices_transposed(u32 *r, const bf16 *row) {
    u32 address = u32(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}
#endif

// Distance of rows in shared memory: 16 bytes more than a row, so that eight rows lie in different banks.
#define STRIDE(D) ((D) + 8)

// Rows [row, row + ROWS) of a matrix in global memory; zeros from row `last` on.
template <int D, int ROWS> DEVICE void load_tile(bf16 *tile, const bf16 *from, u64 width, u32 row, u32 last) {
    const int per_row = D / 8;
#pragma unroll
    for (int i = threadIdx.x; i < ROWS * per_row; i += TENSOR_THREADS) {
        u32 r = i / per_row, c = i % per_row * 8;
        uint4 numbers = {0, 0, 0, 0};
        if (row + r < last) numbers = *(const uint4 *)(from + u64(row + r) * width + c);
        *(uint4 *)(tile + r * STRIDE(D) + c) = numbers;
    }
}

// The left operand: rows [row, row + 16) and columns [k, k + 16) of a tile.
template <int D> DEVICE void left(u32 *a, const bf16 *tile, u32 row, u32 k) {
    u32 lane = threadIdx.x % WARP;
    load_matrices(a, tile + (row + lane % 16) * STRIDE(D) + k + lane / 16 * 8);
}
// Two right operands, transposed rows: for output columns [row, row + 8) and [row + 8, row + 16), over tile columns [k, k + 16).
template <int D> DEVICE void right_rows(u32 *b, const bf16 *tile, u32 row, u32 k) {
    u32 lane = threadIdx.x % WARP;
    load_matrices(b, tile + (row + lane % 8 + lane / 16 * 8) * STRIDE(D) + k + lane / 8 % 2 * 8);
}
// Two right operands: for output columns [col, col + 8) and [col + 8, col + 16), over tile rows [k, k + 16).
template <int D> DEVICE void right_columns(u32 *b, const bf16 *tile, u32 k, u32 col) {
    u32 lane = threadIdx.x % WARP;
    load_matrices_transposed(b, tile + (k + lane % 16) * STRIDE(D) + col + lane / 16 * 8);
}
// Results of two neighbouring products become a left operand.
DEVICE void left_of_results(u32 *a, const float *low, const float *high) {
    a[0] = pack_bf16(low[0], low[1]);
    a[1] = pack_bf16(low[2], low[3]);
    a[2] = pack_bf16(high[0], high[1]);
    a[3] = pack_bf16(high[2], high[3]);
}

// scores [16, COLS] := rows [row, row + 16) of tile a · rows of tile b, transposed.
template <int D, int COLS> DEVICE void scores_of(float (*scores)[4], const bf16 *a_tile, u32 row, const bf16 *b_tile) {
#pragma unroll
    for (int n = 0; n < COLS / 8; n++) scores[n][0] = scores[n][1] = scores[n][2] = scores[n][3] = 0.0f;
#pragma unroll
    for (int k = 0; k < D; k += 16) {
        u32 a[4];
        left<D>(a, a_tile, row, k);
#pragma unroll
        for (int n = 0; n < COLS / 16; n++) {
            u32 b[4];
            right_rows<D>(b, b_tile, n * 16, k);
            mma(scores[2 * n], a, b);
            mma(scores[2 * n + 1], a, b + 2);
        }
    }
}
// sums [16, D] += weights [16, ROWS] · the tile's rows.
template <int D, int ROWS> DEVICE void add_weighted(float (*sums)[4], float (*weights)[4], const bf16 *tile) {
#pragma unroll
    for (int k = 0; k < ROWS / 16; k++) {
        u32 a[4];
        left_of_results(a, weights[2 * k], weights[2 * k + 1]);
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
            u32 b[4];
            right_columns<D>(b, tile, k * 16, n * 16);
            mma(sums[2 * n], a, b);
            mma(sums[2 * n + 1], a, b + 2);
        }
    }
}
// The warp's results [16, D] go to rows of a matrix, those below `last`; rows 8.. are times the second factor.
template <int D>
DEVICE void store_rows(bf16 *to, u64 width, u32 row, u32 last, float (*results)[4], float factor, float second_factor) {
    u32 lane = threadIdx.x % WARP, r = row + lane / 4;
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
        u32 c = n * 8 + lane % 4 * 2;
        if (r < last) *(u32 *)(to + u64(r) * width + c) = pack_bf16(results[n][0] * factor, results[n][1] * factor);
        if (r + 8 < last) {
            *(u32 *)(to + u64(r + 8) * width + c) = pack_bf16(results[n][2] * second_factor, results[n][3] * second_factor);
        }
    }
}
DEVICE float quad_sum(float x) {
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}
DEVICE float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}

// Tiles go over blockIdx.x from the last one (which sees most keys), heads over blockIdx.y.
template <int D>
DEVICE void attention_forward(bf16 *out, float *lse, const bf16 *rotated, const bf16 *qkv, const Tile *tiles, AttentionSizes s) {
    bf16 *keys = (bf16 *)dynamic_shared, *values = keys + TILE * STRIDE(D), *queries = values + TILE * STRIDE(D);
    Tile tile = tiles[gridDim.x - 1 - blockIdx.x];
    u32 head = blockIdx.y, kv_head = head / (s.num_heads / s.num_kv_heads), lane = threadIdx.x % WARP;
    u32 warp_row = threadIdx.x / WARP * 16, row = tile.row + warp_row + lane / 4;
    const bf16 *key_from = rotated + u64(s.num_heads + kv_head) * D;
    const bf16 *value_from = qkv + u64(s.num_heads + s.num_kv_heads + kv_head) * D;
    load_tile<D, TILE>(queries, rotated + u64(head) * D, rotated_width(s), tile.row, tile.last);
    float sums[D / 8][4], max[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};
#pragma unroll
    for (int n = 0; n < D / 8; n++) sums[n][0] = sums[n][1] = sums[n][2] = sums[n][3] = 0.0f;
    u32 end = tile.row + TILE < tile.last ? tile.row + TILE : tile.last;
    for (u32 start = tile.first; start < end; start += TILE) {
        __syncthreads();
        load_tile<D, TILE>(keys, key_from, rotated_width(s), start, tile.last);
        load_tile<D, TILE>(values, value_from, qkv_width(s), start, tile.last);
        __syncthreads();
        float scores[TILE / 8][4];
        scores_of<D, TILE>(scores, queries, warp_row, keys);
        float most[2] = {max[0], max[1]};
#pragma unroll
        for (int n = 0; n < TILE / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                u32 key = start + n * 8 + lane % 4 * 2 + i % 2, query = row + i / 2 * 8;
                scores[n][i] = key <= query ? scores[n][i] * (s.scale * LOG2_E) : -INFINITY;
                most[i / 2] = fmaxf(most[i / 2], scores[n][i]);
            }
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            most[half] = quad_max(most[half]);
            float shrink = exp2_fast(max[half] - most[half]);
            max[half] = most[half];
            total[half] *= shrink;
#pragma unroll
            for (int n = 0; n < D / 8; n++) sums[n][2 * half] *= shrink, sums[n][2 * half + 1] *= shrink;
        }
#pragma unroll
        for (int n = 0; n < TILE / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                scores[n][i] = exp2_fast(scores[n][i] - max[i / 2]);
                total[i / 2] += scores[n][i];
            }
        }
        add_weighted<D, TILE>(sums, scores, values);
    }
    total[0] = quad_sum(total[0]), total[1] = quad_sum(total[1]);
    store_rows<D>(out + u64(head) * D, out_width(s), tile.row + warp_row, tile.last, sums, 1.0f / total[0], 1.0f / total[1]);
    if (lane % 4 == 0) {
        for (int half = 0; half < 2; half++) {
            u32 query = row + half * 8;
            if (query < tile.last) lse[u64(head) * s.rows + query] = max[half] * LN_2 + logf(total[half]);
        }
    }
}

// The query part of dqkv, tiles and heads as above.
template <int D>
DEVICE void attention_backward_queries(bf16 *dqkv, const bf16 *dout, const float *lse, const float *delta, const bf16 *rotated,
                                       const bf16 *qkv, const Tile *tiles, AttentionSizes s) {
    bf16 *queries = (bf16 *)dynamic_shared, *gradients = queries + TILE * STRIDE(D);
    bf16 *keys = gradients + TILE * STRIDE(D), *values = keys + SHORT_TILE * STRIDE(D);
    Tile tile = tiles[gridDim.x - 1 - blockIdx.x];
    u32 head = blockIdx.y, kv_head = head / (s.num_heads / s.num_kv_heads), lane = threadIdx.x % WARP;
    u32 warp_row = threadIdx.x / WARP * 16, row = tile.row + warp_row + lane / 4;
    const bf16 *key_from = rotated + u64(s.num_heads + kv_head) * D;
    const bf16 *value_from = qkv + u64(s.num_heads + s.num_kv_heads + kv_head) * D;
    load_tile<D, TILE>(queries, rotated + u64(head) * D, rotated_width(s), tile.row, tile.last);
    load_tile<D, TILE>(gradients, dout + u64(head) * D, out_width(s), tile.row, tile.last);
    float log_sum[2], mean[2], sums[D / 8][4];
    for (int half = 0; half < 2; half++) {
        u32 query = row + half * 8;
        bool is_there = query < tile.last;
        log_sum[half] = is_there ? lse[u64(head) * s.rows + query] * LOG2_E : INFINITY;
        mean[half] = is_there ? delta[u64(head) * s.rows + query] : 0.0f;
    }
#pragma unroll
    for (int n = 0; n < D / 8; n++) sums[n][0] = sums[n][1] = sums[n][2] = sums[n][3] = 0.0f;
    u32 end = tile.row + TILE < tile.last ? tile.row + TILE : tile.last;
    for (u32 start = tile.first; start < end; start += SHORT_TILE) {
        __syncthreads();
        load_tile<D, SHORT_TILE>(keys, key_from, rotated_width(s), start, tile.last);
        load_tile<D, SHORT_TILE>(values, value_from, qkv_width(s), start, tile.last);
        __syncthreads();
        float scores[SHORT_TILE / 8][4], slopes[SHORT_TILE / 8][4];
        scores_of<D, SHORT_TILE>(scores, queries, warp_row, keys);
        scores_of<D, SHORT_TILE>(slopes, gradients, warp_row, values);
#pragma unroll
        for (int n = 0; n < SHORT_TILE / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                u32 key = start + n * 8 + lane % 4 * 2 + i % 2, query = row + i / 2 * 8;
                float p = key <= query ? exp2_fast(scores[n][i] * (s.scale * LOG2_E) - log_sum[i / 2]) : 0.0f;
                scores[n][i] = p * (slopes[n][i] - mean[i / 2]);
            }
        }
        add_weighted<D, SHORT_TILE>(sums, scores, keys);
    }
    store_rows<D>(dqkv + u64(head) * D, qkv_width(s), tile.row + warp_row, tile.last, sums, s.scale, s.scale);
}

// The key and value parts of dqkv; blockIdx.y is the key/value head.
template <int D>
DEVICE void attention_backward_keys(bf16 *dqkv, const bf16 *dout, const float *lse, const float *delta, const bf16 *rotated,
                                    const bf16 *qkv, const Tile *tiles, AttentionSizes s) {
    bf16 *keys = (bf16 *)dynamic_shared, *values = keys + TILE * STRIDE(D);
    bf16 *queries = values + TILE * STRIDE(D), *gradients = queries + SHORT_TILE * STRIDE(D);
    float *log_sums = (float *)(gradients + SHORT_TILE * STRIDE(D)), *means = log_sums + SHORT_TILE;
    Tile tile = tiles[blockIdx.x];
    u32 kv_head = blockIdx.y, group = s.num_heads / s.num_kv_heads, lane = threadIdx.x % WARP;
    u32 warp_row = threadIdx.x / WARP * 16, row = tile.row + warp_row + lane / 4;
    u64 key_place = u64(s.num_heads + kv_head) * D, value_place = u64(s.num_heads + s.num_kv_heads + kv_head) * D;
    load_tile<D, TILE>(keys, rotated + key_place, rotated_width(s), tile.row, tile.last);
    load_tile<D, TILE>(values, qkv + value_place, qkv_width(s), tile.row, tile.last);
    float dkeys[D / 8][4], dvalues[D / 8][4];
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
        dkeys[n][0] = dkeys[n][1] = dkeys[n][2] = dkeys[n][3] = 0.0f;
        dvalues[n][0] = dvalues[n][1] = dvalues[n][2] = dvalues[n][3] = 0.0f;
    }
    for (u32 head = kv_head * group; head < (kv_head + 1) * group; head++) {
        for (u32 start = tile.row; start < tile.last; start += SHORT_TILE) {
            __syncthreads();
            load_tile<D, SHORT_TILE>(queries, rotated + u64(head) * D, rotated_width(s), start, tile.last);
            load_tile<D, SHORT_TILE>(gradients, dout + u64(head) * D, out_width(s), start, tile.last);
            if (threadIdx.x < SHORT_TILE) {
                u32 query = start + threadIdx.x;
                bool is_there = query < tile.last;
                log_sums[threadIdx.x] = is_there ? lse[u64(head) * s.rows + query] * LOG2_E : INFINITY;
                means[threadIdx.x] = is_there ? delta[u64(head) * s.rows + query] : 0.0f;
            }
            __syncthreads();
            // Rows are keys, columns queries.
            float scores[SHORT_TILE / 8][4], slopes[SHORT_TILE / 8][4];
            scores_of<D, SHORT_TILE>(scores, keys, warp_row, queries);
            scores_of<D, SHORT_TILE>(slopes, values, warp_row, gradients);
#pragma unroll
            for (int n = 0; n < SHORT_TILE / 8; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    u32 column = n * 8 + lane % 4 * 2 + i % 2, key = row + i / 2 * 8;
                    float p = exp2_fast(scores[n][i] * (s.scale * LOG2_E) - log_sums[column]);
                    scores[n][i] = key <= start + column ? p : 0.0f;
                    slopes[n][i] = scores[n][i] * (slopes[n][i] - means[column]);
                }
            }
            add_weighted<D, SHORT_TILE>(dvalues, scores, gradients);
            add_weighted<D, SHORT_TILE>(dkeys, slopes, queries);
        }
    }
    store_rows<D>(dqkv + key_place, qkv_width(s), tile.row + warp_row, tile.last, dkeys, s.scale, s.scale);
    store_rows<D>(dqkv + value_place, qkv_width(s), tile.row + warp_row, tile.last, dvalues, 1.0f, 1.0f);
}

#define TENSOR_KERNELS(D)                                                                                                   \
    extern "C" __global__ void __launch_bounds__(TENSOR_THREADS) attention_forward_##D(                                     \
        bf16 *out, float *lse, const bf16 *rotated, const bf16 *qkv, const Tile *tiles, AttentionSizes s) {                 \
        attention_forward<D>(out, lse, rotated, qkv, tiles, s);                                                             \
    }                                                                                                                       \
    extern "C" __global__ void __launch_bounds__(TENSOR_THREADS) attention_backward_queries_##D(                            \
        bf16 *dqkv, const bf16 *dout, const float *lse, const float *delta, const bf16 *rotated, const bf16 *qkv,           \
        const Tile *tiles, AttentionSizes s) {                                                                              \
        attention_backward_queries<D>(dqkv, dout, lse, delta, rotated, qkv, tiles, s);                                      \
    }                                                                                                                       \
    extern "C" __global__ void __launch_bounds__(TENSOR_THREADS) attention_backward_keys_##D(                               \
        bf16 *dqkv, const bf16 *dout, const float *lse, const float *delta, const bf16 *rotated, const bf16 *qkv,           \
        const Tile *tiles, AttentionSizes s) {                                                                              \
        attention_backward_keys<D>(dqkv, dout, lse, delta, rotated, qkv, tiles, s);                                         \
    }
TENSOR_KERNELS(64)
TENSOR_KERNELS(128)
