// Decoding: rows against weights in every format, the cache of keys and values, attention over it. Sums in f32; what one row gets does
// not depend on the other rows.

// Weights that share a scale; GROUP in weights.rs.
#define INT8_GROUP 64

// Eight weights of row `o` from column `c` on (a multiple of 8; fewer where the row ends, zeros behind).
struct WeightsF32 {
    const float *numbers;
    u64 cols;
    DEVICE void load(u64 o, u64 c, float *w, bool wide) const {
        const float *p = numbers + o * cols + c;
        if (wide) load8(p, w);
        else for (int k = 0; k < 8; k++) w[k] = c + k < cols ? p[k] : 0.0f;
    }
};
struct WeightsBf16 {
    const bf16 *numbers;
    u64 cols;
    DEVICE void load(u64 o, u64 c, float *w, bool wide) const {
        const bf16 *p = numbers + o * cols + c;
        if (wide) load8(p, w);
        else for (int k = 0; k < 8; k++) w[k] = c + k < cols ? to_float(p[k]) : 0.0f;
    }
};
struct WeightsInt8 {
    const i8 *codes;
    const float *scales;
    u64 cols;
    DEVICE void load(u64 o, u64 c, float *w, bool wide) const {
        const i8 *p = codes + o * cols + c;
        float scale = scales[o * ((cols + INT8_GROUP - 1) / INT8_GROUP) + c / INT8_GROUP];
        if (wide) {
            uint2 words = *(const uint2 *)p;
#pragma unroll
            for (int k = 0; k < 4; k++) {
                w[k] = float(i8(words.x >> (8 * k))) * scale;
                w[k + 4] = float(i8(words.y >> (8 * k))) * scale;
            }
        } else {
            for (int k = 0; k < 8; k++) w[k] = c + k < cols ? float(p[k]) * scale : 0.0f;
        }
    }
};

// Rows of x that one block takes together.
#define FEW_ROWS 8

// One warp for each output: y [rows, O] := x [rows, I] · wᵀ. A lane sums columns 8 lane + 256 k, then the lanes are summed in a tree,
// whatever the number of rows.
template <int R, class W>
DEVICE void by_row_part(float *y, u64 y_stride, const float *x, u64 x_stride, const W &w, u64 outputs, u32 rows, bool wide) {
    u32 lane = threadIdx.x % WARP;
    u64 o = (u64(blockIdx.x) * blockDim.x + threadIdx.x) / WARP;
    if (o >= outputs) return;
    float sums[R];
    for (int r = 0; r < R; r++) sums[r] = 0.0f;
#pragma unroll 4
    for (u64 c = u64(lane) * 8; c < w.cols; c += 8 * WARP) {
        float weights[8];
        w.load(o, c, weights, wide);
#pragma unroll
        for (int r = 0; r < R; r++) {
            if (u32(r) < rows) {
                const float *p = x + u64(r) * x_stride + c;
                float numbers[8];
                if (wide) load8(p, numbers);
                else for (int k = 0; k < 8; k++) numbers[k] = c + k < w.cols ? p[k] : 0.0f;
#pragma unroll
                for (int k = 0; k < 8; k++) sums[r] += weights[k] * numbers[k];
            }
        }
    }
#pragma unroll
    for (int r = 0; r < R; r++) {
        float sum = warp_sum(sums[r]);
        if (lane == 0 && u32(r) < rows) y[u64(r) * y_stride + o] = sum;
    }
}
template <class W>
DEVICE void by_row(float *y, u64 y_stride, const float *x, u64 x_stride, const W &w, u64 outputs, u32 rows, bool wide) {
    u32 first = blockIdx.y * FEW_ROWS, count = rows - first < FEW_ROWS ? rows - first : FEW_ROWS;
    y += first * y_stride, x += first * x_stride;
    if (count == 1) by_row_part<1>(y, y_stride, x, x_stride, w, outputs, count, wide);
    else by_row_part<FEW_ROWS>(y, y_stride, x, x_stride, w, outputs, count, wide);
}
extern "C" __global__ void linear_by_row_f32(float *y, u64 y_stride, const float *x, u64 x_stride, const float *numbers,
                                             const float *unused, u64 outputs, u64 cols, u32 rows, u32 wide) {
    WeightsF32 w = {numbers, cols};
    by_row(y, y_stride, x, x_stride, w, outputs, rows, wide);
}
extern "C" __global__ void linear_by_row_bf16(float *y, u64 y_stride, const float *x, u64 x_stride, const bf16 *numbers,
                                              const float *unused, u64 outputs, u64 cols, u32 rows, u32 wide) {
    WeightsBf16 w = {numbers, cols};
    by_row(y, y_stride, x, x_stride, w, outputs, rows, wide);
}
extern "C" __global__ void linear_by_row_int8(float *y, u64 y_stride, const float *x, u64 x_stride, const i8 *codes,
                                              const float *scales, u64 outputs, u64 cols, u32 rows, u32 wide) {
    WeightsInt8 w = {codes, scales, cols};
    by_row(y, y_stride, x, x_stride, w, outputs, rows, wide);
}

// y [n, cols] := rows of w; without `rows`, all of them in order. T is what y holds.
template <class T, class W> DEVICE void take_rows(T *y, const W &w, const u32 *rows, u64 n) {
    for (u64 i = blockIdx.y; i < n; i += gridDim.y) {
        u64 row = rows ? rows[i] : i;
        for (u64 c = (u64(blockIdx.x) * blockDim.x + threadIdx.x) * 8; c < w.cols; c += u64(gridDim.x) * blockDim.x * 8) {
            float numbers[8];
            w.load(row, c, numbers, false);
            for (int k = 0; k < 8; k++) if (c + k < w.cols) y[i * w.cols + c + k] = Format<T>::of(numbers[k]);
        }
    }
}
extern "C" __global__ void take_rows_f32(float *y, const float *numbers, const float *unused, u64 cols, const u32 *rows, u64 n) {
    WeightsF32 w = {numbers, cols};
    take_rows(y, w, rows, n);
}
extern "C" __global__ void take_rows_bf16(float *y, const bf16 *numbers, const float *unused, u64 cols, const u32 *rows, u64 n) {
    WeightsBf16 w = {numbers, cols};
    take_rows(y, w, rows, n);
}
extern "C" __global__ void take_rows_int8(float *y, const i8 *codes, const float *scales, u64 cols, const u32 *rows, u64 n) {
    WeightsInt8 w = {codes, scales, cols};
    take_rows(y, w, rows, n);
}
// As the last, rounded to bf16: what products of many rows take.
extern "C" __global__ void expand_int8(bf16 *y, const i8 *codes, const float *scales, u64 cols, const u32 *rows, u64 n) {
    WeightsInt8 w = {codes, scales, cols};
    take_rows(y, w, rows, n);
}

// Sizes of the cache: blocks of `block_len` tokens, each a row of KD numbers.
struct CacheSizes {
    u32 num_heads, num_kv_heads, head_dim, block_len;
    float scale;
};

// One block for each row: its keys and values go to the place [tokens, KD] that `places` says.
template <class T>
DEVICE void cache_store_body(T *keys, T *values, const float *rotated, const float *qkv, const u32 *places, CacheSizes s) {
    u64 row = blockIdx.x, width = u64(s.num_kv_heads) * s.head_dim, queries = u64(s.num_heads) * s.head_dim;
    u64 to = u64(places[row]) * width;
    const float *key = rotated + row * (queries + width) + queries, *value = qkv + row * (queries + 2 * width) + queries + width;
    for (u64 c = threadIdx.x; c < width; c += blockDim.x) {
        keys[to + c] = Format<T>::of(key[c]);
        values[to + c] = Format<T>::of(value[c]);
    }
}
FORMATS(cache_store, (T *keys, T *values, const float *rotated, const float *qkv, const u32 *places, CacheSizes s),
        (keys, values, rotated, qkv, places, s))

// Positions of a sequence that one block takes.
#define SPLIT 64
// Lanes that share a key; warps of a block.
#define KEY_LANES 8
#define SPLIT_WARPS 4
#define KEY_GROUPS (SPLIT_WARPS * WARP / KEY_LANES)

// One block for each split, head and row. partial [n, A, splits, D + 2]: the sum of values, the greatest score, the sum of exp.
// tables: lists of blocks of the cache; first [n]: where the list of the row's sequence begins there; lengths [n]: positions that the
// row sees. A lane has PARTS numbers of a head, W by W: 16 bytes where rows of keys are a multiple of that.
template <int PARTS, int W, class T>
DEVICE void split_attention(float *partial, const float *rotated, const T *keys, const T *values, const u32 *tables,
                            const u32 *first, const u32 *lengths, CacheSizes s) {
    __shared__ u64 places[SPLIT];
    __shared__ float query[PARTS * KEY_LANES];
    __shared__ float sums[KEY_GROUPS][PARTS * KEY_LANES];
    __shared__ float maxes[KEY_GROUPS], totals[KEY_GROUPS];
    u32 d = s.head_dim, head = blockIdx.y, kv_head = head / (s.num_heads / s.num_kv_heads);
    u32 sub = threadIdx.x % KEY_LANES, group = threadIdx.x / KEY_LANES;
    u64 row = blockIdx.z, width = u64(s.num_kv_heads) * d;
    u32 begin = blockIdx.x * SPLIT, end = begin + SPLIT < lengths[row] ? begin + SPLIT : lengths[row];
    if (begin >= end) return;
    const float *q = rotated + row * u64(s.num_heads + s.num_kv_heads) * d + u64(head) * d;
    for (u32 j = threadIdx.x; j < d; j += blockDim.x) query[j] = q[j] * s.scale;
    for (u32 i = threadIdx.x; i < end - begin; i += blockDim.x) {
        u32 position = begin + i, block = tables[first[row] + position / s.block_len];
        places[i] = (u64(block) * s.block_len + position % s.block_len) * width + u64(kv_head) * d;
    }
    __syncthreads();
    float mine[PARTS], max = -INFINITY, total = 0.0f;
#pragma unroll
    for (int i = 0; i < PARTS; i++) mine[i] = 0.0f;
    // Every lane goes as often around as the others: they exchange numbers.
    for (u32 start = begin; start < end; start += KEY_GROUPS) {
        u32 position = start + group;
        bool is_seen = position < end;
        u64 place = places[is_seen ? position - begin : 0];
        float score = 0.0f, value[PARTS];
#pragma unroll
        for (int i = 0; i < PARTS; i += W) {
            u32 j = sub * W + i * KEY_LANES;
            if (j < d) {
                float key[W];
                load<W>(keys + place + j, key);
                load<W>(values + place + j, value + i);
#pragma unroll
                for (int k = 0; k < W; k++) score += query[j + k] * key[k];
            }
        }
#pragma unroll
        for (int offset = KEY_LANES / 2; offset > 0; offset /= 2) score += __shfl_xor_sync(ALL_LANES, score, offset);
        if (is_seen) {
            float most = fmaxf(max, score), shrink = expf(max - most), p = expf(score - most);
            total = total * shrink + p;
            max = most;
#pragma unroll
            for (int i = 0; i < PARTS; i++) {
                if (sub * W + i / W * W * KEY_LANES < d) mine[i] = mine[i] * shrink + p * value[i];
            }
        }
    }
#pragma unroll
    for (int i = 0; i < PARTS; i++) sums[group][sub * W + i / W * W * KEY_LANES + i % W] = mine[i];
    if (sub == 0) maxes[group] = max, totals[group] = total;
    __syncthreads();
    float most = -INFINITY;
    for (u32 g = 0; g < KEY_GROUPS; g++) most = fmaxf(most, maxes[g]);
    float *to = partial + ((row * s.num_heads + head) * gridDim.x + blockIdx.x) * (d + 2);
    for (u32 j = threadIdx.x; j < d; j += blockDim.x) {
        float sum = 0.0f;
        for (u32 g = 0; g < KEY_GROUPS; g++) sum += sums[g][j] * expf(maxes[g] - most);
        to[j] = sum;
    }
    if (threadIdx.x == 0) {
        float sum = 0.0f;
        for (u32 g = 0; g < KEY_GROUPS; g++) sum += totals[g] * expf(maxes[g] - most);
        to[d] = most;
        to[d + 1] = sum;
    }
}
#define CACHE_ATTENTION_PARAMS                                                                                          \
    (float *partial, const float *rotated, const T *keys, const T *values, const u32 *tables, const u32 *first,         \
     const u32 *lengths, CacheSizes s, u32 wide)
#define CACHE_ATTENTION_ARGS (partial, rotated, keys, values, tables, first, lengths, s, wide)
template <int D, class T> DEVICE void cache_attention_body CACHE_ATTENTION_PARAMS {
    if (wide) split_attention<D / KEY_LANES, 16 / sizeof(T)>(partial, rotated, keys, values, tables, first, lengths, s);
    else split_attention<D / KEY_LANES, 1>(partial, rotated, keys, values, tables, first, lengths, s);
}
template <class T> DEVICE void cache_attention_64_body CACHE_ATTENTION_PARAMS { cache_attention_body<64, T> CACHE_ATTENTION_ARGS; }
template <class T> DEVICE void cache_attention_128_body CACHE_ATTENTION_PARAMS { cache_attention_body<128, T> CACHE_ATTENTION_ARGS; }
template <class T> DEVICE void cache_attention_256_body CACHE_ATTENTION_PARAMS { cache_attention_body<256, T> CACHE_ATTENTION_ARGS; }
FORMATS(cache_attention_64, CACHE_ATTENTION_PARAMS, CACHE_ATTENTION_ARGS)
FORMATS(cache_attention_128, CACHE_ATTENTION_PARAMS, CACHE_ATTENTION_ARGS)
FORMATS(cache_attention_256, CACHE_ATTENTION_PARAMS, CACHE_ATTENTION_ARGS)

// out [n, AD]: the splits of each head (blockIdx.x) and row (blockIdx.y) together.
extern "C" __global__ void join_splits(float *out, const float *partial, const u32 *lengths, u32 splits, CacheSizes s) {
    u32 d = s.head_dim, head = blockIdx.x, used = (lengths[blockIdx.y] + SPLIT - 1) / SPLIT;
    const float *from = partial + (u64(blockIdx.y) * s.num_heads + head) * splits * (d + 2);
    float most = -INFINITY, total = 0.0f;
    for (u32 i = 0; i < used; i++) most = fmaxf(most, from[u64(i) * (d + 2) + d]);
    for (u32 i = 0; i < used; i++) total += from[u64(i) * (d + 2) + d + 1] * expf(from[u64(i) * (d + 2) + d] - most);
    for (u32 j = threadIdx.x; j < d; j += blockDim.x) {
        float sum = 0.0f;
        for (u32 i = 0; i < used; i++) sum += from[u64(i) * (d + 2) + j] * expf(from[u64(i) * (d + 2) + d] - most);
        out[u64(blockIdx.y) * s.num_heads * d + u64(head) * d + j] = sum / total;
    }
}
