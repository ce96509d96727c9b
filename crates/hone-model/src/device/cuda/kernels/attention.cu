// Causal attention inside segments for any format and head size, one warp for each query (or key) of each head. The plain way: the
// tensor cores' kernels are in attention_tensor.cu.

// Rows of the operands, as in device.rs: rotated [N, (A+K)D], qkv [N, (A+2K)D], out [N, AD], lse [A, N].
struct AttentionSizes {
    u32 num_heads, num_kv_heads, head_dim;
    float scale;
    u64 rows;
};
DEVICE u64 rotated_width(const AttentionSizes &s) { return u64(s.num_heads + s.num_kv_heads) * s.head_dim; }
DEVICE u64 qkv_width(const AttentionSizes &s) { return u64(s.num_heads + 2 * s.num_kv_heads) * s.head_dim; }
DEVICE u64 out_width(const AttentionSizes &s) { return u64(s.num_heads) * s.head_dim; }

// Numbers of a head that one lane holds: heads of up to 256.
#define LANE_PARTS 8
// Warps of a block.
#define ROW_WARPS 4

template <class T> DEVICE float dot(const float *shared, const T *row, u32 d) {
    float sum = 0.0f;
    for (u32 j = 0; j < d; j++) sum += shared[j] * to_float(row[j]);
    return sum;
}

// A lane's numbers of a head: j = lane + 32 i. sum += factor * row.
template <class T> DEVICE void add_row(float *sum, float factor, const T *row, u32 lane, u32 d) {
#pragma unroll
    for (int i = 0; i < LANE_PARTS; i++) {
        u32 j = lane + i * WARP;
        if (j < d) sum[i] += factor * to_float(row[j]);
    }
}

// first [N]: where the segment of each row begins.
template <class T>
DEVICE void attention_rows_body(T *out, float *lse, const T *rotated, const T *qkv, const u32 *first, AttentionSizes s) {
    __shared__ float queries[ROW_WARPS][LANE_PARTS * WARP];
    u32 lane = threadIdx.x % WARP, d = s.head_dim, head = blockIdx.y, kv_head = head / (s.num_heads / s.num_kv_heads);
    u64 row = u64(blockIdx.x) * ROW_WARPS + threadIdx.x / WARP;
    if (row >= s.rows) return;
    float *query = queries[threadIdx.x / WARP];
    const T *q = rotated + row * rotated_width(s) + u64(head) * d;
    for (u32 j = lane; j < d; j += WARP) query[j] = to_float(q[j]) * s.scale;
    __syncwarp();
    const T *keys = rotated + u64(s.num_heads + kv_head) * d, *values = qkv + u64(s.num_heads + s.num_kv_heads + kv_head) * d;
    float sums[LANE_PARTS] = {0.0f}, max = -INFINITY, total = 0.0f;
    for (u64 start = first[row]; start <= row; start += WARP) {
        u64 key = start + lane;
        float score = key <= row ? dot(query, keys + key * rotated_width(s), d) : -INFINITY;
        float most = fmaxf(max, warp_max(score)), shrink = expf(max - most), p = expf(score - most);
        total = total * shrink + warp_sum(p);
        max = most;
        for (int i = 0; i < LANE_PARTS; i++) sums[i] *= shrink;
        for (u32 other = 0; other < WARP && start + other <= row; other++) {
            add_row(sums, __shfl_sync(ALL_LANES, p, other), values + (start + other) * qkv_width(s), lane, d);
        }
    }
    for (int i = 0; i < LANE_PARTS; i++) {
        u32 j = lane + i * WARP;
        if (j < d) out[row * out_width(s) + u64(head) * d + j] = Format<T>::of(sums[i] / total);
    }
    if (lane == 0) lse[u64(head) * s.rows + row] = max + logf(total);
}
FORMATS(attention_rows, (T *out, float *lse, const T *rotated, const T *qkv, const u32 *first, AttentionSizes s),
        (out, lse, rotated, qkv, first, s))

// delta [A, N] := dout · out of each query, one warp each.
template <class T> DEVICE void attention_delta_body(float *delta, const T *dout, const T *out, AttentionSizes s) {
    u32 lane = threadIdx.x % WARP, head = blockIdx.y;
    u64 row = u64(blockIdx.x) * ROW_WARPS + threadIdx.x / WARP;
    if (row >= s.rows) return;
    u64 place = row * out_width(s) + u64(head) * s.head_dim;
    float sum = 0.0f;
    for (u32 j = lane; j < s.head_dim; j += WARP) sum += to_float(dout[place + j]) * to_float(out[place + j]);
    sum = warp_sum(sum);
    if (lane == 0) delta[u64(head) * s.rows + row] = sum;
}
FORMATS(attention_delta, (float *delta, const T *dout, const T *out, AttentionSizes s), (delta, dout, out, s))

// The query part of dqkv.
template <class T>
DEVICE void attention_query_rows_body(T *dqkv, const T *dout, const float *lse, const float *delta, const T *rotated, const T *qkv,
                                      const u32 *first, AttentionSizes s) {
    __shared__ float queries[ROW_WARPS][2][LANE_PARTS * WARP];
    u32 lane = threadIdx.x % WARP, d = s.head_dim, head = blockIdx.y, kv_head = head / (s.num_heads / s.num_kv_heads);
    u64 row = u64(blockIdx.x) * ROW_WARPS + threadIdx.x / WARP;
    if (row >= s.rows) return;
    float *query = queries[threadIdx.x / WARP][0], *gradient = queries[threadIdx.x / WARP][1];
    for (u32 j = lane; j < d; j += WARP) {
        query[j] = to_float(rotated[row * rotated_width(s) + u64(head) * d + j]) * s.scale;
        gradient[j] = to_float(dout[row * out_width(s) + u64(head) * d + j]);
    }
    __syncwarp();
    const T *keys = rotated + u64(s.num_heads + kv_head) * d, *values = qkv + u64(s.num_heads + s.num_kv_heads + kv_head) * d;
    float sums[LANE_PARTS] = {0.0f}, log_sum = lse[u64(head) * s.rows + row], mean = delta[u64(head) * s.rows + row];
    for (u64 start = first[row]; start <= row; start += WARP) {
        u64 key = start + lane;
        float ds = 0.0f;
        if (key <= row) {
            float p = expf(dot(query, keys + key * rotated_width(s), d) - log_sum);
            ds = p * (dot(gradient, values + key * qkv_width(s), d) - mean) * s.scale;
        }
        for (u32 other = 0; other < WARP && start + other <= row; other++) {
            add_row(sums, __shfl_sync(ALL_LANES, ds, other), keys + (start + other) * rotated_width(s), lane, d);
        }
    }
    for (int i = 0; i < LANE_PARTS; i++) {
        u32 j = lane + i * WARP;
        if (j < d) dqkv[row * qkv_width(s) + u64(head) * d + j] = Format<T>::of(sums[i]);
    }
}
FORMATS(attention_query_rows,
        (T *dqkv, const T *dout, const float *lse, const float *delta, const T *rotated, const T *qkv, const u32 *first,
         AttentionSizes s),
        (dqkv, dout, lse, delta, rotated, qkv, first, s))

// The key and value parts of dqkv; last [N]: where the segment of each row ends. blockIdx.y is the key/value head.
template <class T>
DEVICE void attention_key_rows_body(T *dqkv, const T *dout, const float *lse, const float *delta, const T *rotated, const T *qkv,
                                    const u32 *last, AttentionSizes s) {
    __shared__ float keys[ROW_WARPS][2][LANE_PARTS * WARP];
    u32 lane = threadIdx.x % WARP, d = s.head_dim, kv_head = blockIdx.y, group = s.num_heads / s.num_kv_heads;
    u64 row = u64(blockIdx.x) * ROW_WARPS + threadIdx.x / WARP;
    if (row >= s.rows) return;
    float *key = keys[threadIdx.x / WARP][0], *value = keys[threadIdx.x / WARP][1];
    u64 key_place = u64(s.num_heads + kv_head) * d, value_place = u64(s.num_heads + s.num_kv_heads + kv_head) * d;
    for (u32 j = lane; j < d; j += WARP) {
        key[j] = to_float(rotated[row * rotated_width(s) + key_place + j]) * s.scale;
        value[j] = to_float(qkv[row * qkv_width(s) + value_place + j]);
    }
    __syncwarp();
    float dkey[LANE_PARTS] = {0.0f}, dvalue[LANE_PARTS] = {0.0f};
    for (u32 head = kv_head * group; head < (kv_head + 1) * group; head++) {
        const T *queries = rotated + u64(head) * d, *gradients = dout + u64(head) * d;
        for (u64 start = row; start < last[row]; start += WARP) {
            u64 query = start + lane;
            float p = 0.0f, ds = 0.0f;
            if (query < last[row]) {
                p = expf(dot(key, queries + query * rotated_width(s), d) - lse[u64(head) * s.rows + query]);
                ds = p * (dot(value, gradients + query * out_width(s), d) - delta[u64(head) * s.rows + query]) * s.scale;
            }
            for (u32 other = 0; other < WARP && start + other < last[row]; other++) {
                float p_other = __shfl_sync(ALL_LANES, p, other), ds_other = __shfl_sync(ALL_LANES, ds, other);
                add_row(dvalue, p_other, gradients + (start + other) * out_width(s), lane, d);
                add_row(dkey, ds_other, queries + (start + other) * rotated_width(s), lane, d);
            }
        }
    }
    for (int i = 0; i < LANE_PARTS; i++) {
        u32 j = lane + i * WARP;
        if (j < d) {
            dqkv[row * qkv_width(s) + key_place + j] = Format<T>::of(dkey[i]);
            dqkv[row * qkv_width(s) + value_place + j] = Format<T>::of(dvalue[i]);
        }
    }
}
FORMATS(attention_key_rows,
        (T *dqkv, const T *dout, const float *lse, const float *delta, const T *rotated, const T *qkv, const u32 *last,
         AttentionSizes s),
        (dqkv, dout, lse, delta, rotated, qkv, last, s))
