// Causal attention inside segments on tensor cores: bf16, heads of 64 or 128 numbers. As in FlashAttention-2 (Dao, 2023): scores are
// never stored; the backward pass computes them again, once for the keys and once for the queries, so that no sum depends on the order
// in which blocks run.
//
// A tile is a block's part of one segment: rows from `row` on, of the segment [first, last). Each of its four warps owns a quarter of a
// tile's rows, in one or two groups of 16. Operands of mma.m16n8k16: see "Warp Level Matrix Multiply-Accumulate Instructions" in the
// PTX manual. Copies into shared memory are asynchronous: what is needed next is on its way while the tensor cores work.

struct Tile {
    u32 row, first, last;
};
// Rows of a tile of queries, and of a tile of keys.
#define QUERY_TILE 128
#define KEY_TILE 64
#define TENSOR_THREADS 128
// Keys that go through the forward pass together.
#define KEYS_AT_ONCE 64
// Keys, or queries, that go through the backward kernels together.
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

// 16 bytes into shared memory, zeros where there is nothing to copy; done when the group they are in has been waited for.
DEVICE void copy_16(bf16 *to, const bf16 *from, bool is_there) {
    u32 address = u32(__cvta_generic_to_shared(to)), bytes = is_there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes) : "memory");
}
DEVICE void end_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits for all groups but the last `LATER`.
template <int LATER> DEVICE void wait_for_groups() { asm volatile("cp.async.wait_group %0;" ::"n"(LATER) : "memory"); }
#endif

// Distance of rows in shared memory: 16 bytes more than a row, so that eight rows lie in different banks.
#define STRIDE(D) ((D) + 8)

// Rows [row, row + ROWS) of a matrix in global memory; zeros from row `last` on.
template <int D, int ROWS> DEVICE void load_tile(bf16 *tile, const bf16 *from, u64 width, u32 row, u32 last) {
    const int per_row = D / 8;
#pragma unroll
    for (int i = threadIdx.x; i < ROWS * per_row; i += TENSOR_THREADS) {
        u32 r = i / per_row, c = i % per_row * 8;
        bool is_there = row + r < last;
        copy_16(tile + r * STRIDE(D) + c, from + (is_there ? u64(row + r) * width + c : 0), is_there);
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

// scores [G * 16, COLS] := rows [row, row + G * 16) of tile a · rows of tile b, transposed.
template <int D, int COLS, int G> DEVICE void scores_of(float (*scores)[COLS / 8][4], const bf16 *a_tile, u32 row, const bf16 *b_tile) {
#pragma unroll
    for (int g = 0; g < G; g++) {
#pragma unroll
        for (int n = 0; n < COLS / 8; n++) scores[g][n][0] = scores[g][n][1] = scores[g][n][2] = scores[g][n][3] = 0.0f;
    }
#pragma unroll
    for (int k = 0; k < D; k += 16) {
        u32 a[G][4];
#pragma unroll
        for (int g = 0; g < G; g++) left<D>(a[g], a_tile, row + g * 16, k);
#pragma unroll
        for (int n = 0; n < COLS / 16; n++) {
            u32 b[4];
            right_rows<D>(b, b_tile, n * 16, k);
#pragma unroll
            for (int g = 0; g < G; g++) {
                mma(scores[g][2 * n], a[g], b);
                mma(scores[g][2 * n + 1], a[g], b + 2);
            }
        }
    }
}
// sums [G * 16, D] += weights [G * 16, ROWS] · the tile's rows.
template <int D, int ROWS, int G> DEVICE void add_weighted(float (*sums)[D / 8][4], float (*weights)[ROWS / 8][4], const bf16 *tile) {
#pragma unroll
    for (int k = 0; k < ROWS / 16; k++) {
        u32 a[G][4];
#pragma unroll
        for (int g = 0; g < G; g++) left_of_results(a[g], weights[g][2 * k], weights[g][2 * k + 1]);
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
            u32 b[4];
            right_columns<D>(b, tile, k * 16, n * 16);
#pragma unroll
            for (int g = 0; g < G; g++) {
                mma(sums[g][2 * n], a[g], b);
                mma(sums[g][2 * n + 1], a[g], b + 2);
            }
        }
    }
}
template <int D, int G> DEVICE void clear(float (*sums)[D / 8][4]) {
#pragma unroll
    for (int i = 0; i < G * D / 8 * 4; i++) sums[i / 4 / (D / 8)][i / 4 % (D / 8)][i % 4] = 0.0f;
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
    const int G = QUERY_TILE / 64;
    bf16 *queries = (bf16 *)dynamic_shared, *keys = queries + QUERY_TILE * STRIDE(D), *values = keys + KEYS_AT_ONCE * STRIDE(D);
    Tile tile = tiles[gridDim.x - 1 - blockIdx.x];
    u32 head = blockIdx.y, kv_head = head / (s.num_heads / s.num_kv_heads), lane = threadIdx.x % WARP;
    u32 warp_row = threadIdx.x / WARP * G * 16, row = tile.row + warp_row + lane / 4;
    const bf16 *key_from = rotated + u64(s.num_heads + kv_head) * D;
    const bf16 *value_from = qkv + u64(s.num_heads + s.num_kv_heads + kv_head) * D;
    load_tile<D, QUERY_TILE>(queries, rotated + u64(head) * D, rotated_width(s), tile.row, tile.last);
    load_tile<D, KEYS_AT_ONCE>(keys, key_from, rotated_width(s), tile.first, tile.last);
    end_group();
    float sums[G][D / 8][4], max[G][2], total[G][2];
    clear<D, G>(sums);
#pragma unroll
    for (int g = 0; g < G; g++) max[g][0] = max[g][1] = -INFINITY, total[g][0] = total[g][1] = 0.0f;
    u32 end = tile.row + QUERY_TILE < tile.last ? tile.row + QUERY_TILE : tile.last;
    for (u32 start = tile.first; start < end; start += KEYS_AT_ONCE) {
        // The values come while the scores are computed, the next keys while the values are added.
        load_tile<D, KEYS_AT_ONCE>(values, value_from, qkv_width(s), start, tile.last);
        end_group();
        wait_for_groups<1>();
        __syncthreads();
        float scores[G][KEYS_AT_ONCE / 8][4];
        scores_of<D, KEYS_AT_ONCE, G>(scores, queries, warp_row, keys);
        wait_for_groups<0>();
        __syncthreads();
        if (start + KEYS_AT_ONCE < end) {
            load_tile<D, KEYS_AT_ONCE>(keys, key_from, rotated_width(s), start + KEYS_AT_ONCE, tile.last);
        }
        end_group();
#pragma unroll
        for (int g = 0; g < G; g++) {
            float most[2] = {max[g][0], max[g][1]};
#pragma unroll
            for (int n = 0; n < KEYS_AT_ONCE / 8; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    u32 key = start + n * 8 + lane % 4 * 2 + i % 2, query = row + g * 16 + i / 2 * 8;
                    float score = key <= query ? scores[g][n][i] * (s.scale * LOG2_E) : -INFINITY;
                    scores[g][n][i] = score;
                    most[i / 2] = fmaxf(most[i / 2], score);
                }
            }
#pragma unroll
            for (int half = 0; half < 2; half++) {
                most[half] = quad_max(most[half]);
                // Rows that have seen no key yet, because the tile's keys are all behind them: there is nothing to shrink.
                float shift = most[half] == -INFINITY ? 0.0f : most[half], shrink = exp2_fast(max[g][half] - shift);
                max[g][half] = shift;
                total[g][half] *= shrink;
#pragma unroll
                for (int n = 0; n < D / 8; n++) sums[g][n][2 * half] *= shrink, sums[g][n][2 * half + 1] *= shrink;
            }
#pragma unroll
            for (int n = 0; n < KEYS_AT_ONCE / 8; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    scores[g][n][i] = exp2_fast(scores[g][n][i] - max[g][i / 2]);
                    total[g][i / 2] += scores[g][n][i];
                }
            }
        }
        add_weighted<D, KEYS_AT_ONCE, G>(sums, scores, values);
        // Nobody overwrites the values before all have added them.
        __syncthreads();
    }
    wait_for_groups<0>();
#pragma unroll
    for (int g = 0; g < G; g++) {
        float sum[2] = {quad_sum(total[g][0]), quad_sum(total[g][1])};
        u32 first = tile.row + warp_row + g * 16;
        store_rows<D>(out + u64(head) * D, out_width(s), first, tile.last, sums[g], 1.0f / sum[0], 1.0f / sum[1]);
        for (int half = 0; half < 2; half++) {
            u32 query = row + g * 16 + half * 8;
            if (lane % 4 == 0 && query < tile.last) lse[u64(head) * s.rows + query] = max[g][half] * LN_2 + logf(sum[half]);
        }
    }
}

// The query part of dqkv, tiles and heads as above.
template <int D>
DEVICE void attention_backward_queries(bf16 *dqkv, const bf16 *dout, const float *lse, const float *delta, const bf16 *rotated,
                                       const bf16 *qkv, const Tile *tiles, AttentionSizes s) {
    const int G = QUERY_TILE / 64;
    bf16 *queries = (bf16 *)dynamic_shared, *gradients = queries + QUERY_TILE * STRIDE(D);
    bf16 *keys = gradients + QUERY_TILE * STRIDE(D), *values = keys + SHORT_TILE * STRIDE(D);
    Tile tile = tiles[gridDim.x - 1 - blockIdx.x];
    u32 head = blockIdx.y, kv_head = head / (s.num_heads / s.num_kv_heads), lane = threadIdx.x % WARP;
    u32 warp_row = threadIdx.x / WARP * G * 16, row = tile.row + warp_row + lane / 4;
    const bf16 *key_from = rotated + u64(s.num_heads + kv_head) * D;
    const bf16 *value_from = qkv + u64(s.num_heads + s.num_kv_heads + kv_head) * D;
    load_tile<D, QUERY_TILE>(queries, rotated + u64(head) * D, rotated_width(s), tile.row, tile.last);
    load_tile<D, QUERY_TILE>(gradients, dout + u64(head) * D, out_width(s), tile.row, tile.last);
    float log_sum[G][2], mean[G][2], sums[G][D / 8][4];
#pragma unroll
    for (int i = 0; i < 2 * G; i++) {
        u32 query = row + i * 8;
        bool is_there = query < tile.last;
        log_sum[i / 2][i % 2] = is_there ? lse[u64(head) * s.rows + query] * LOG2_E : INFINITY;
        mean[i / 2][i % 2] = is_there ? delta[u64(head) * s.rows + query] : 0.0f;
    }
    clear<D, G>(sums);
    u32 end = tile.row + QUERY_TILE < tile.last ? tile.row + QUERY_TILE : tile.last;
    for (u32 start = tile.first; start < end; start += SHORT_TILE) {
        __syncthreads();
        load_tile<D, SHORT_TILE>(keys, key_from, rotated_width(s), start, tile.last);
        load_tile<D, SHORT_TILE>(values, value_from, qkv_width(s), start, tile.last);
        end_group();
        wait_for_groups<0>();
        __syncthreads();
        float scores[G][SHORT_TILE / 8][4], slopes[G][SHORT_TILE / 8][4];
        scores_of<D, SHORT_TILE, G>(scores, queries, warp_row, keys);
        scores_of<D, SHORT_TILE, G>(slopes, gradients, warp_row, values);
#pragma unroll
        for (int g = 0; g < G; g++) {
#pragma unroll
            for (int n = 0; n < SHORT_TILE / 8; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    u32 key = start + n * 8 + lane % 4 * 2 + i % 2, query = row + g * 16 + i / 2 * 8;
                    float p = exp2_fast(scores[g][n][i] * (s.scale * LOG2_E) - log_sum[g][i / 2]);
                    scores[g][n][i] = key <= query ? p * (slopes[g][n][i] - mean[g][i / 2]) : 0.0f;
                }
            }
        }
        add_weighted<D, SHORT_TILE, G>(sums, scores, keys);
    }
#pragma unroll
    for (int g = 0; g < G; g++) {
        store_rows<D>(dqkv + u64(head) * D, qkv_width(s), tile.row + warp_row + g * 16, tile.last, sums[g], s.scale, s.scale);
    }
}

// A step of attention_backward_keys: queries and their gradients in shared memory, with two numbers for each.
template <int D> struct QueryStage {
    bf16 *queries, *gradients;
    float *log_sums, *means;

    DEVICE QueryStage(bf16 *tiles, float *numbers, u32 which) {
        queries = tiles + which * 2 * SHORT_TILE * STRIDE(D);
        gradients = queries + SHORT_TILE * STRIDE(D);
        log_sums = numbers + which * 2 * SHORT_TILE;
        means = log_sums + SHORT_TILE;
    }
    DEVICE void load(const bf16 *dout, const float *lse, const float *delta, const bf16 *rotated, u32 head, u32 start, u32 last,
                     const AttentionSizes &s) const {
        load_tile<D, SHORT_TILE>(queries, rotated + u64(head) * D, rotated_width(s), start, last);
        load_tile<D, SHORT_TILE>(gradients, dout + u64(head) * D, out_width(s), start, last);
        if (threadIdx.x < SHORT_TILE) {
            u32 query = start + threadIdx.x;
            bool is_there = query < last;
            log_sums[threadIdx.x] = is_there ? lse[u64(head) * s.rows + query] * LOG2_E : INFINITY;
            means[threadIdx.x] = is_there ? delta[u64(head) * s.rows + query] : 0.0f;
        }
    }
};

// The key and value parts of dqkv; blockIdx.y is the key/value head.
template <int D>
DEVICE void attention_backward_keys(bf16 *dqkv, const bf16 *dout, const float *lse, const float *delta, const bf16 *rotated,
                                    const bf16 *qkv, const Tile *tiles, AttentionSizes s) {
    bf16 *keys = (bf16 *)dynamic_shared, *values = keys + KEY_TILE * STRIDE(D), *stages = values + KEY_TILE * STRIDE(D);
    float *numbers = (float *)(stages + 4 * SHORT_TILE * STRIDE(D));
    Tile tile = tiles[blockIdx.x];
    u32 kv_head = blockIdx.y, group = s.num_heads / s.num_kv_heads, lane = threadIdx.x % WARP;
    u32 warp_row = threadIdx.x / WARP * 16, row = tile.row + warp_row + lane / 4;
    u64 key_place = u64(s.num_heads + kv_head) * D, value_place = u64(s.num_heads + s.num_kv_heads + kv_head) * D;
    load_tile<D, KEY_TILE>(keys, rotated + key_place, rotated_width(s), tile.row, tile.last);
    load_tile<D, KEY_TILE>(values, qkv + value_place, qkv_width(s), tile.row, tile.last);
    float dkeys[1][D / 8][4], dvalues[1][D / 8][4];
    clear<D, 1>(dkeys);
    clear<D, 1>(dvalues);
    // Steps over the queries of every head of the group, one head after the other.
    u32 per_head = (tile.last - tile.row + SHORT_TILE - 1) / SHORT_TILE, num_steps = per_head * group;
    QueryStage<D>(stages, numbers, 0).load(dout, lse, delta, rotated, kv_head * group, tile.row, tile.last, s);
    end_group();
    for (u32 step = 0; step < num_steps; step++) {
        if (step + 1 < num_steps) {
            u32 head = kv_head * group + (step + 1) / per_head, start = tile.row + (step + 1) % per_head * SHORT_TILE;
            QueryStage<D>(stages, numbers, (step + 1) % 2).load(dout, lse, delta, rotated, head, start, tile.last, s);
        }
        end_group();
        wait_for_groups<1>();
        __syncthreads();
        QueryStage<D> stage(stages, numbers, step % 2);
        u32 start = tile.row + step % per_head * SHORT_TILE;
        // Rows are keys, columns queries.
        float scores[1][SHORT_TILE / 8][4], slopes[1][SHORT_TILE / 8][4];
        scores_of<D, SHORT_TILE, 1>(scores, keys, warp_row, stage.queries);
        scores_of<D, SHORT_TILE, 1>(slopes, values, warp_row, stage.gradients);
#pragma unroll
        for (int n = 0; n < SHORT_TILE / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                u32 column = n * 8 + lane % 4 * 2 + i % 2, key = row + i / 2 * 8;
                float p = exp2_fast(scores[0][n][i] * (s.scale * LOG2_E) - stage.log_sums[column]);
                scores[0][n][i] = key <= start + column ? p : 0.0f;
                slopes[0][n][i] = scores[0][n][i] * (slopes[0][n][i] - stage.means[column]);
            }
        }
        add_weighted<D, SHORT_TILE, 1>(dvalues, scores, stage.gradients);
        add_weighted<D, SHORT_TILE, 1>(dkeys, slopes, stage.queries);
        // Nobody overwrites this stage before all are done with it.
        __syncthreads();
    }
    wait_for_groups<0>();
    store_rows<D>(dqkv + key_place, qkv_width(s), tile.row + warp_row, tile.last, dkeys[0], s.scale, s.scale);
    store_rows<D>(dqkv + value_place, qkv_width(s), tile.row + warp_row, tile.last, dvalues[0], 1.0f, 1.0f);
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
