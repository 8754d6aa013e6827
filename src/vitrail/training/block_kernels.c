// What surrounds the large products in an encoder block's update, in bfloat16, for processors with AVX512-BF16.
//
// Each function works on whole arrays, in `threads` threads of OpenMP that share nothing; sums over rows are left as one
// row for each thread, so that their order is a function of the number of threads alone. Widths (of tokens, hidden
// features and heads) are multiples of 16. Gradients: Dosovitskiy et al. 2021, eq. 2-3, by the chain rule.
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <omp.h>

typedef uint16_t bf16;  // the upper half of a float
#define LANES 16

static inline __m512 load_bf16(const bf16 *from) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16));
}

static inline void store_bf16(bf16 *to, __m512 values) {
    _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(values));
}

// exp for arguments of at most about 88; below -87 it stays what it is there, 2e-38. Relative error under 2e-5, a hundredth
// of what bf16 rounds to. Adding 1.5 * 2^23 rounds to a whole number, which then stands in the lowest bits; 2 to the
// fraction is a minimax polynomial of degree 4.
static inline __m512 exp_ps(__m512 x) {
    const __m512 log2e = _mm512_set1_ps(1.44269504f), rounding = _mm512_set1_ps(12582912.0f);
    x = _mm512_max_ps(_mm512_set1_ps(-87.0f), x);  // in this order what is no number stays so
    const __m512 n = _mm512_fmadd_ps(x, log2e, rounding);
    const __m512 f = _mm512_fmsub_ps(x, log2e, _mm512_sub_ps(n, rounding));
    __m512 p = _mm512_set1_ps(0.009570102f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.055917863f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.24024744f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.69312179f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.99999928f));
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), _mm512_slli_epi32(_mm512_castps_si512(n), 23)));
}

// log of positive numbers, error under 2e-6: the exponent, and of the rest, .75 to 1.5, a minimax polynomial.
static inline __m512 log_ps(__m512 x) {
    const __m512 m = _mm512_getmant_ps(x, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_zero);
    const __m512 n = _mm512_getexp_ps(_mm512_div_ps(x, m));
    const __m512 f = _mm512_sub_ps(m, _mm512_set1_ps(1.0f));
    __m512 p = _mm512_set1_ps(0.079380876f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(-0.16684277f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.20778197f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(-0.25092596f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.33307189f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(-0.49997357f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0000024f));
    return _mm512_fmadd_ps(n, _mm512_set1_ps(0.69314718f), _mm512_mul_ps(p, f));
}

// ---------------------------------------------------------------------------------------------------- small products

// C (rows, 16 * vectors) float32 = A (rows, 2 * pairs) B (2 * pairs, 16 * vectors). An element of A is a pair of bf16, one
// pair after the other `a_step` apart; B holds for each pair its two rows interleaved. Strides in elements of 32 bits.
static inline __attribute__((always_inline)) void tile(
    const int rows, const int vectors, long pairs, const uint32_t *a, long a_stride, long a_step, const uint32_t *b,
    long b_stride, float *c, long c_stride) {
    __m512 sums[4][6];
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vectors; v++) sums[i][v] = _mm512_setzero_ps();
    for (long k = 0; k < pairs; k++) {
        __m512i row[6];
        for (int v = 0; v < vectors; v++) row[v] = _mm512_loadu_si512(b + k * b_stride + LANES * v);
        for (int i = 0; i < rows; i++) {
            const __m512bh pair = (__m512bh)_mm512_set1_epi32(a[i * a_stride + k * a_step]);
            for (int v = 0; v < vectors; v++) sums[i][v] = _mm512_dpbf16_ps(sums[i][v], pair, (__m512bh)row[v]);
        }
    }
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vectors; v++) _mm512_storeu_ps(c + i * c_stride + LANES * v, sums[i][v]);
}

#define ROWS_OF(V)                                                                                                     \
    case V:                                                                                                            \
        for (; i + 4 <= rows; i += 4)                                                                                  \
            tile(4, V, pairs, a + i * a_stride, a_stride, a_step, b, b_stride, c + i * c_stride, c_stride);            \
        for (; i < rows; i++)                                                                                          \
            tile(1, V, pairs, a + i * a_stride, a_stride, a_step, b, b_stride, c + i * c_stride, c_stride);            \
        break;

static void multiply(long rows, long vectors, long pairs, const uint32_t *a, long a_stride, long a_step,
                     const uint32_t *b, long b_stride, float *c, long c_stride) {
    while (vectors > 0) {
        const long blocks = (vectors + 5) / 6, now = (vectors + blocks - 1) / blocks;
        long i = 0;
        switch (now) { ROWS_OF(1) ROWS_OF(2) ROWS_OF(3) ROWS_OF(4) ROWS_OF(5) ROWS_OF(6) }
        vectors -= now, b += LANES * now, c += LANES * now;
    }
}

// (16, 16) elements of 32 bits, transposed in place.
static inline void transpose_square(__m512i r[16]) {
    __m512i s[16];
    for (int i = 0; i < 16; i += 2) {
        s[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        s[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            r[i + 2 * j] = _mm512_unpacklo_epi64(s[i + j], s[i + j + 2]);
            r[i + 2 * j + 1] = _mm512_unpackhi_epi64(s[i + j], s[i + j + 2]);
        }
    for (int i = 0; i < 4; i++) {
        s[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        s[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        s[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        s[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 8; i++) {
        r[i] = _mm512_shuffle_i32x4(s[i], s[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(s[i], s[i + 8], 0xdd);
    }
}

// (rows, columns) -> (columns, to_stride), elements of 32 bits; what lies beyond `rows` in a row of `to` is zero.
static void transpose(long rows, long columns, const uint32_t *from, long from_stride, uint32_t *to, long to_stride) {
    for (long j = 0; j < columns; j += LANES) {
        const long width = columns - j < LANES ? columns - j : LANES;
        const __mmask16 mask = (__mmask16)(0xffffu >> (LANES - width));
        for (long i = 0; i < to_stride; i += LANES) {
            __m512i square[LANES];
            for (long k = 0; k < LANES; k++)
                square[k] = i + k < rows ? _mm512_maskz_loadu_epi32(mask, from + (i + k) * from_stride + j)
                                         : _mm512_setzero_si512();
            transpose_square(square);
            for (long k = 0; k < width; k++) _mm512_storeu_si512(to + (j + k) * to_stride + i, square[k]);
        }
    }
}

// Rows of bf16 two by two: (rows, columns) -> ((rows + 1) / 2, to_stride) pairs; an odd last row goes with zeros.
static void interleave(long rows, long columns, const bf16 *from, long from_stride, uint32_t *to, long to_stride) {
    for (long i = 0; i < rows; i += 2) {
        const bf16 *one = from + i * from_stride, *two = one + from_stride;
        for (long j = 0; j < columns; j += LANES) {
            const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(one + j)));
            __m512i high = _mm512_setzero_si512();
            if (i + 1 < rows) high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(two + j)));
            _mm512_storeu_si512(to + i / 2 * to_stride + j, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
        }
    }
}

// ---------------------------------------------------------------------------------------------------------- attention

static inline long padded(long n) { return (n + LANES - 1) / LANES * LANES; }

static __thread char *arena;
static __thread size_t arena_bytes;

static char *workspace(size_t bytes) {
    if (bytes > arena_bytes) {
        free(arena);
        arena = aligned_alloc(64, (bytes + 63) / 64 * 64);
        arena_bytes = arena ? bytes : 0;
    }
    return arena;
}

// qkv (batch, tokens, 3, heads, head_dim) bf16 -> out (batch, tokens, heads, head_dim) bf16, and for each row of the
// weights the logarithm of its softmax's denominator, lse (batch, heads, tokens) float32; NULL: nobody asks. Logits are the
// products times `scale`. Returns 0, or 1 without memory.
int attention_forward(const bf16 *qkv, bf16 *out, float *lse, float scale, long batch, long tokens, long heads,
                      long head_dim, int threads) {
    const long width = heads * head_dim, stride = 3 * width, wide = padded(tokens), pairs = head_dim / 2;
    const long token_pairs = (tokens + 1) / 2;
    int failed = 0;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(| : failed)
    for (long item = 0; item < batch * heads; item++) {
        const bf16 *query = qkv + item / heads * tokens * stride + item % heads * head_dim;
        const bf16 *key = query + width, *value = key + width;
        bf16 *to = out + item / heads * tokens * width + item % heads * head_dim;
        char *space = workspace(4 * (pairs * wide + token_pairs * head_dim + tokens * wide + tokens * head_dim + 2 * wide) + 2 * tokens * wide);
        if (!space) { failed = 1; continue; }
        uint32_t *keys = (uint32_t *)space, *values = keys + pairs * wide;
        float *logits = (float *)(values + token_pairs * head_dim), *sums = logits + tokens * wide;
        float *most = sums + tokens * head_dim, *sum = most + wide;
        bf16 *weights = (bf16 *)(sum + wide);
        transpose(tokens, pairs, (const uint32_t *)key, stride / 2, keys, wide);
        interleave(tokens, head_dim, value, stride, values, head_dim);
        multiply(tokens, wide / LANES, pairs, (const uint32_t *)query, stride / 2, 1, keys, wide, logits, wide);
        const __mmask16 last = (__mmask16)(0xffffu >> (wide - tokens));
        for (long i = 0; i < tokens; i++) {
            const float *row = logits + i * wide;
            __m512 top = _mm512_set1_ps(-INFINITY);
            for (long j = 0; j < wide; j += LANES)
                top = _mm512_mask_max_ps(top, j + LANES < wide ? 0xffff : last, top, _mm512_loadu_ps(row + j));
            most[i] = scale * _mm512_reduce_max_ps(top);
            __m512 total = _mm512_setzero_ps();
            for (long j = 0; j < wide; j += LANES) {
                const __m512 less = _mm512_fmsub_ps(_mm512_loadu_ps(row + j), _mm512_set1_ps(scale), _mm512_set1_ps(most[i]));
                const __m512 part = _mm512_maskz_mov_ps(j + LANES < wide ? 0xffff : last, exp_ps(less));
                total = _mm512_add_ps(total, part);
                store_bf16(weights + i * wide + j, part);
            }
            sum[i] = _mm512_reduce_add_ps(total);
        }
        for (long i = 0; lse && i < tokens; i += LANES) {
            const __mmask16 here = (__mmask16)(tokens - i < LANES ? 0xffffu >> (LANES - (tokens - i)) : 0xffffu);
            const __m512 logs = _mm512_add_ps(log_ps(_mm512_maskz_loadu_ps(here, sum + i)), _mm512_loadu_ps(most + i));
            _mm512_mask_storeu_ps(lse + item * tokens + i, here, logs);
        }
        multiply(tokens, head_dim / LANES, token_pairs, (const uint32_t *)weights, wide / 2, 1, values, head_dim, sums, head_dim);
        for (long i = 0; i < tokens; i++) {
            const __m512 share = _mm512_set1_ps(1.0f / sum[i]);
            for (long d = 0; d < head_dim; d += LANES)
                store_bf16(to + i * width + d, _mm512_mul_ps(share, _mm512_loadu_ps(sums + i * head_dim + d)));
        }
    }
    return failed;
}

// from (rows, columns) as bf16; and its sum over the rows is added to `sums`.
static void store_rows(const float *from, long rows, long columns, bf16 *to, long to_stride, float *sums) {
    for (long j = 0; j < columns; j += LANES) {
        __m512 sum = _mm512_loadu_ps(sums + j);
        for (long i = 0; i < rows; i++) {
            const __m512 values = _mm512_loadu_ps(from + i * columns + j);
            store_bf16(to + i * to_stride + j, values);
            sum = _mm512_add_ps(sum, values);
        }
        _mm512_storeu_ps(sums + j, sum);
    }
}

// Asks for rows that will be needed soon: strided as they are, the processor does not guess them.
static inline void prefetch_rows(const bf16 *from, long rows, long columns, long stride) {
    for (long i = 0; i < rows; i++)
        for (long j = 0; j < columns; j += 32) _mm_prefetch((const char *)(from + i * stride + j), _MM_HINT_T1);
}

// Gradients of attention_forward: of qkv, from that of out, and its sum over all tokens, bias_grads (threads, 3, heads,
// head_dim), a row for every thread that ran, added to what is there. The weights are computed again, transposed: a row is
// a key.
int attention_backward(const bf16 *qkv, const bf16 *out, const float *lse, const bf16 *out_grad, bf16 *qkv_grad,
                       float *bias_grads, long batch, long tokens, long heads, long head_dim, int threads) {
    const long width = heads * head_dim, stride = 3 * width, wide = padded(tokens), pairs = head_dim / 2;
    const long token_pairs = (tokens + 1) / 2;
    const float scale = 1.0f / sqrtf((float)head_dim);
    int failed = 0;
#pragma omp parallel for schedule(static) num_threads(threads) reduction(| : failed)
    for (long item = 0; item < batch * heads; item++) {
        const long first = item / heads * tokens * stride + item % heads * head_dim;
        const long first_out = item / heads * tokens * width + item % heads * head_dim;
        const bf16 *query = qkv + first, *key = query + width, *value = key + width;
        const bf16 *answer = out + first_out, *gradient = out_grad + first_out;
        bf16 *to = qkv_grad + first;
        float *bias_grad = bias_grads + omp_get_thread_num() * stride + item % heads * head_dim;
        // What was kept since the forward pass lies in main memory by now: the next head's is fetched meanwhile.
        const long next = item + 1 < batch * heads ? item + 1 : item;
        const bf16 *next_query = qkv + next / heads * tokens * stride + next % heads * head_dim;
        const long next_out = next / heads * tokens * width + next % heads * head_dim;
        const size_t bytes = 4 * (2 * pairs * wide + 2 * token_pairs * head_dim + token_pairs * wide + 2 * wide)
            + 4 * (2 * tokens * wide + tokens * head_dim) + 2 * 2 * (tokens + 1) * wide;
        char *space = workspace(bytes);
        if (!space) { failed = 1; continue; }
        uint32_t *columns = (uint32_t *)space, *columns_grad = columns + pairs * wide;  // of queries, of out_grad
        uint32_t *rows_of = columns_grad + pairs * wide, *key_rows = rows_of + token_pairs * head_dim;
        uint32_t *mixed = key_rows + token_pairs * head_dim;
        float *delta = (float *)(mixed + token_pairs * wide), *shift = delta + wide;
        float *logits = shift + wide, *slopes = logits + tokens * wide, *sums = slopes + tokens * wide;
        bf16 *weights = (bf16 *)(sums + tokens * head_dim), *logit_grads = weights + (tokens + 1) * wide;
        memset(delta, 0, 8 * wide);
        for (long i = 0; i < tokens; i++) {
            __m512 sum = _mm512_setzero_ps();
            for (long d = 0; d < head_dim; d += LANES)
                sum = _mm512_fmadd_ps(load_bf16(answer + i * width + d), load_bf16(gradient + i * width + d), sum);
            delta[i] = _mm512_reduce_add_ps(sum);
            shift[i] = lse[item * tokens + i];
        }
        transpose(tokens, pairs, (const uint32_t *)query, stride / 2, columns, wide);
        transpose(tokens, pairs, (const uint32_t *)gradient, width / 2, columns_grad, wide);
        prefetch_rows(next_query, tokens, head_dim, stride);
        multiply(tokens, wide / LANES, pairs, (const uint32_t *)key, stride / 2, 1, columns, wide, logits, wide);
        prefetch_rows(out_grad + next_out, tokens, head_dim, width);
        multiply(tokens, wide / LANES, pairs, (const uint32_t *)value, stride / 2, 1, columns_grad, wide, slopes, wide);
        prefetch_rows(next_query + width, tokens, head_dim, stride);
        const __mmask16 last = (__mmask16)(0xffffu >> (wide - tokens));
        for (long j = 0; j < tokens; j++)
            for (long i = 0; i < wide; i += LANES) {
                const __m512 scaled = _mm512_fmsub_ps(
                    _mm512_loadu_ps(logits + j * wide + i), _mm512_set1_ps(scale), _mm512_loadu_ps(shift + i));
                const __m512 weight = _mm512_maskz_mov_ps(i + LANES < wide ? 0xffff : last, exp_ps(scaled));
                const __m512 slope = _mm512_sub_ps(_mm512_loadu_ps(slopes + j * wide + i), _mm512_loadu_ps(delta + i));
                store_bf16(weights + j * wide + i, weight);
                store_bf16(logit_grads + j * wide + i, _mm512_mul_ps(_mm512_mul_ps(weight, slope), _mm512_set1_ps(scale)));
            }
        prefetch_rows(next_query + 2 * width, tokens, head_dim, stride);
        // value
        interleave(tokens, head_dim, gradient, width, rows_of, head_dim);
        multiply(tokens, head_dim / LANES, token_pairs, (const uint32_t *)weights, wide / 2, 1, rows_of, head_dim, sums, head_dim);
        store_rows(sums, tokens, head_dim, to + 2 * width, stride, bias_grad + 2 * width);
        prefetch_rows(out + next_out, tokens, head_dim, width);
        // key
        interleave(tokens, head_dim, query, stride, rows_of, head_dim);
        multiply(tokens, head_dim / LANES, token_pairs, (const uint32_t *)logit_grads, wide / 2, 1, rows_of, head_dim, sums, head_dim);
        store_rows(sums, tokens, head_dim, to + width, stride, bias_grad + width);
        // query: a row of it is a column of what stands there, two keys in each element
        interleave(tokens, wide, logit_grads, wide, mixed, wide);
        interleave(tokens, head_dim, key, stride, key_rows, head_dim);
        multiply(tokens, head_dim / LANES, token_pairs, mixed, 1, wide, key_rows, head_dim, sums, head_dim);
        store_rows(sums, tokens, head_dim, to, stride, bias_grad);
    }
    return failed;
}

// --------------------------------------------------------------------------------------------------------------- norm

// sums = stream + branch (bf16; NULL: stream alone), normed = layer norm of it (bf16), and each row's mean and reciprocal
// standard deviation. sums may be NULL where branch is.
void norm_forward(const float *stream, const bf16 *branch, const float *weight, const float *bias, float eps, float *sums,
                  bf16 *normed, float *mean, float *rstd, long rows, long width, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long i = 0; i < rows; i++) {
        const float *row = stream + i * width;
        __m512 total = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
        if (branch) {
            float *to = sums + i * width;
            for (long j = 0; j < width; j += LANES)
                _mm512_storeu_ps(to + j, _mm512_add_ps(_mm512_loadu_ps(row + j), load_bf16(branch + i * width + j)));
            row = to;
        }
        for (long j = 0; j < width; j += LANES) total = _mm512_add_ps(total, _mm512_loadu_ps(row + j));
        const float middle = _mm512_reduce_add_ps(total) / (float)width;
        for (long j = 0; j < width; j += LANES) {
            const __m512 off = _mm512_sub_ps(_mm512_loadu_ps(row + j), _mm512_set1_ps(middle));
            squares = _mm512_fmadd_ps(off, off, squares);
        }
        const float scale = 1.0f / sqrtf(_mm512_reduce_add_ps(squares) / (float)width + eps);
        mean[i] = middle, rstd[i] = scale;
        for (long j = 0; j < width; j += LANES) {
            const __m512 off = _mm512_sub_ps(_mm512_loadu_ps(row + j), _mm512_set1_ps(middle));
            store_bf16(normed + i * width + j, _mm512_fmadd_ps(_mm512_mul_ps(off, _mm512_set1_ps(scale)),
                                                               _mm512_loadu_ps(weight + j), _mm512_loadu_ps(bias + j)));
        }
    }
}

// What flows back, (rows, width), as bf16, and its sum over the rows, sums (threads, width), a row for every thread,
// overwritten.
void lower(const float *grad, bf16 *lowered, float *sums, long rows, long width, int threads) {
#pragma omp parallel num_threads(threads)
    {
        float *sum = sums + omp_get_thread_num() * width;
        memset(sum, 0, 4 * width);
#pragma omp for schedule(static)
        for (long i = 0; i < rows; i++)
            for (long j = 0; j < width; j += LANES) {
                const __m512 values = _mm512_loadu_ps(grad + i * width + j);
                store_bf16(lowered + i * width + j, values);
                _mm512_storeu_ps(sum + j, _mm512_add_ps(_mm512_loadu_ps(sum + j), values));
            }
    }
}

// sums = stream + branch (bf16), count elements.
void add(const float *stream, const bf16 *branch, float *sums, long count, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long i = 0; i < count; i += LANES)
        _mm512_storeu_ps(sums + i, _mm512_add_ps(_mm512_loadu_ps(stream + i), load_bf16(branch + i)));
}

// stream_grad = passing + what comes back through the norm of `sums` (the two may be one array); branch_grad (bf16, or
// NULL) becomes a copy of it, and normed what norm_forward gave, so that nobody needs to keep it. parameter_grads (threads, 3,
// width): sums for weight, bias and stream_grad, a row of each for every thread, overwritten.
void norm_backward(const bf16 *normed_grad, const float *sums, const float *mean, const float *rstd, const float *weight,
                   const float *bias, const float *passing, float *stream_grad, bf16 *branch_grad, bf16 *normed,
                   float *parameter_grads, long rows, long width, int threads) {
#pragma omp parallel num_threads(threads)
    {
        float *weight_grad = parameter_grads + omp_get_thread_num() * 3 * width, *bias_grad = weight_grad + width;
        float *grad_sum = bias_grad + width;
        memset(weight_grad, 0, 12 * width);
#pragma omp for schedule(static)
        for (long i = 0; i < rows; i++) {
            const __m512 middle = _mm512_set1_ps(mean[i]), scale = _mm512_set1_ps(rstd[i]);
            __m512 total = _mm512_setzero_ps(), along = _mm512_setzero_ps();
            for (long j = 0; j < width; j += LANES) {
                const __m512 grad = load_bf16(normed_grad + i * width + j);
                const __m512 unit = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(sums + i * width + j), middle), scale);
                _mm512_storeu_ps(bias_grad + j, _mm512_add_ps(_mm512_loadu_ps(bias_grad + j), grad));
                _mm512_storeu_ps(weight_grad + j, _mm512_fmadd_ps(grad, unit, _mm512_loadu_ps(weight_grad + j)));
                const __m512 weighted = _mm512_mul_ps(grad, _mm512_loadu_ps(weight + j));
                total = _mm512_add_ps(total, weighted);
                along = _mm512_fmadd_ps(weighted, unit, along);
            }
            const __m512 average = _mm512_set1_ps(_mm512_reduce_add_ps(total) / (float)width);
            const __m512 slope = _mm512_set1_ps(_mm512_reduce_add_ps(along) / (float)width);
            for (long j = 0; j < width; j += LANES) {
                const __m512 grad = load_bf16(normed_grad + i * width + j);
                const __m512 unit = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(sums + i * width + j), middle), scale);
                const __m512 slopes = _mm512_loadu_ps(weight + j);
                store_bf16(normed + i * width + j, _mm512_fmadd_ps(unit, slopes, _mm512_loadu_ps(bias + j)));
                __m512 back = _mm512_fmsub_ps(grad, slopes, average);
                back = _mm512_mul_ps(_mm512_fnmadd_ps(unit, slope, back), scale);
                const __m512 sum = _mm512_add_ps(_mm512_loadu_ps(passing + i * width + j), back);
                _mm512_storeu_ps(stream_grad + i * width + j, sum);
                _mm512_storeu_ps(grad_sum + j, _mm512_add_ps(_mm512_loadu_ps(grad_sum + j), sum));
                if (branch_grad) store_bf16(branch_grad + i * width + j, sum);
            }
        }
    }
}

// --------------------------------------------------------------------------------------------------------------- GELU

// The share of x that passes, and its slope, for GELU(x) = x * share(x).
//
// EXACT: the normal distribution's share below x; its slope is the density. erf as in Abramowitz and Stegun 7.1.25 (error
// under 2.5e-5, where bf16 rounds to 2e-3). TANH and QUICK: sigmoid(2u) with u = sqrt(2 / pi) (x + 0.044715 x^3) and u = 0.851 x.
enum { EXACT, TANH, QUICK };

static inline __m512 exact_share(__m512 x, __m512 *slope) {
    const __m512 bell = exp_ps(_mm512_mul_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(-0.5f)));
    const __m512 far = _mm512_fmadd_ps(_mm512_abs_ps(x), _mm512_set1_ps(0.47047f * 0.70710678f), _mm512_set1_ps(1.0f));
    const __m512 t = _mm512_rcp14_ps(far);
    __m512 p = _mm512_set1_ps(0.5f * 0.7478556f);
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(0.5f * -0.0958798f));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(0.5f * 0.3480242f));
    const __m512 tail = _mm512_mul_ps(_mm512_mul_ps(p, t), bell);
    *slope = _mm512_mul_ps(bell, _mm512_set1_ps(0.3989422804f));
    const __mmask16 is_negative = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
    return _mm512_mask_mov_ps(_mm512_sub_ps(_mm512_set1_ps(1.0f), tail), is_negative, tail);
}

static inline __m512 sigmoid_share(__m512 x, __m512 *slope, int kind) {
    __m512 u = _mm512_mul_ps(x, _mm512_set1_ps(1.702f)), steepness = _mm512_set1_ps(1.702f);
    if (kind == TANH) {
        const __m512 cubic = _mm512_mul_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(0.044715f));
        const __m512 twice = _mm512_set1_ps(1.5957691216f);  // 2 sqrt(2 / pi)
        u = _mm512_mul_ps(twice, _mm512_fmadd_ps(cubic, x, x));
        steepness = _mm512_mul_ps(twice, _mm512_fmadd_ps(cubic, _mm512_set1_ps(3.0f), _mm512_set1_ps(1.0f)));
    }
    const __m512 bounded = _mm512_min_ps(_mm512_max_ps(u, _mm512_set1_ps(-80.0f)), _mm512_set1_ps(80.0f));
    const __m512 decay = exp_ps(_mm512_sub_ps(_mm512_setzero_ps(), bounded));
    const __m512 share = _mm512_rcp14_ps(_mm512_add_ps(_mm512_set1_ps(1.0f), decay));
    *slope = _mm512_mul_ps(_mm512_mul_ps(share, _mm512_sub_ps(_mm512_set1_ps(1.0f), share)), steepness);
    // min and max above lose what is no number.
    return _mm512_mask_mov_ps(share, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), x);
}

static inline __m512 share_of(__m512 x, __m512 *slope, int kind) {
    return kind == EXACT ? exact_share(x, slope) : sigmoid_share(x, slope, kind);
}

// active = GELU(hidden), (count) bf16.
void gelu_forward(const bf16 *hidden, bf16 *active, long count, long kind, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long i = 0; i < count; i += LANES) {
        __m512 slope;
        const __m512 x = load_bf16(hidden + i);
        store_bf16(active + i, _mm512_mul_ps(x, share_of(x, &slope, (int)kind)));
    }
}

// From the hidden features and the gradient of the active ones: the active ones again, the gradient of the hidden ones, in
// the place of the former, and its sum over the rows, bias_grads (threads, width), a row for every thread, overwritten.
void gelu_backward(const bf16 *hidden, bf16 *grad, bf16 *active, float *bias_grads, long rows, long width, long kind,
                   int threads) {
#pragma omp parallel num_threads(threads)
    {
        float *sums = bias_grads + omp_get_thread_num() * width;
        memset(sums, 0, 4 * width);
#pragma omp for schedule(static)
        for (long i = 0; i < rows; i++)
            for (long j = 0; j < width; j += LANES) {
                __m512 slope;
                const long at = i * width + j;
                const __m512 x = load_bf16(hidden + at), share = share_of(x, &slope, (int)kind);
                const __m512 back = _mm512_mul_ps(load_bf16(grad + at), _mm512_fmadd_ps(x, slope, share));
                store_bf16(active + at, _mm512_mul_ps(x, share));
                store_bf16(grad + at, back);
                _mm512_storeu_ps(sums + j, _mm512_add_ps(_mm512_loadu_ps(sums + j), back));
            }
    }
}
