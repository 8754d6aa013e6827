// What happens to pixels on their way into a batch, for processors with AVX512-VBMI and VNNI.
//
// resize: antialiased, of grey and RGB pictures. The numbers are those of torch's uint8 path: first across, rounded to uint8, then down; weights in 16 bits, sums in 32.
// Rows that were resized across wait in a ring until the last output row that needs them is made, so that all but the
// picture itself stays in the first cache. They wait as planes, one for each channel, which is how they leave.
//
// look_up: bytes to floats that were computed before, as there are only 256 of them for each channel.
#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>

typedef uint8_t u8;

// How one side is resized: output i is the sum of weights[taps * i + k] times input first[i] + k. `taps` is even; weights
// of inputs beyond the edge are 0. `first` never falls.
typedef struct {
    const int32_t *first;
    const int16_t *weights;
    int64_t from, to, taps, precision;
} Axis;

#define LANES 16     // outputs across that are made at once
#define STEP 64      // bytes of a register
#define SPARE 192    // bytes after a plane that may be read, though nothing comes of them
#define WORDS 0x5555555555555555ull  // the lower byte of each word

typedef struct {
    int64_t start;        // the least input of the 16 outputs
    int wide;             // whether their inputs lie too far apart for one register
    u8 places[STEP];      // where in that register each output's pair of inputs lies, as words
    int32_t first[LANES];
} Group;

static inline int64_t rounded_up(int64_t number, int64_t unit) { return (number + unit - 1) / unit * unit; }

static inline __mmask64 lower(int64_t count) { return count >= STEP ? ~0ull : count <= 0 ? 0 : (1ull << count) - 1; }

// Groups of 16 outputs, and their weights as pairs: [group][pair of taps][output][2].
static void plan(const Axis *axis, int mirrored, Group *groups, int32_t *pairs_of_weights) {
    const int64_t pairs = axis->taps / 2;
    for (int64_t g = 0; g * LANES < axis->to; g++) {
        Group *group = groups + g;
        int32_t *weights = pairs_of_weights + g * pairs * LANES;
        int32_t least = INT32_MAX, most = 0;
        for (int64_t lane = 0; lane < LANES; lane++) {
            const int64_t place = g * LANES + lane, there = place < axis->to ? place : axis->to - 1;
            const int64_t output = mirrored ? axis->to - 1 - there : there;
            const int32_t first = axis->first[output];
            group->first[lane] = first;
            least = first < least ? first : least, most = first > most ? first : most;
            const int32_t *own = (const int32_t *)(axis->weights + axis->taps * output);
            for (int64_t k = 0; k < pairs; k++) weights[k * LANES + lane] = own[k];
        }
        group->start = least, group->wide = most - least + 2 > STEP;
        for (int lane = 0; lane < LANES; lane++)
            for (int byte = 0; byte < 4; byte++) group->places[4 * lane + byte] = group->first[lane] - least + byte / 2;
    }
}

// Where bytes c, c + 3, c + 6, ... of three registers lie: in the first two, and in the third.
typedef struct {
    u8 early[3][STEP], late[3][STEP];
    __mmask64 is_late[3];
} Thirds;

static void find_thirds(Thirds *thirds) {
    for (int c = 0; c < 3; c++) {
        thirds->is_late[c] = 0;
        for (int i = 0; i < STEP; i++) {
            thirds->early[c][i] = (3 * i + c) & 127, thirds->late[c][i] = (3 * i + c) & 63;
            if (3 * i + c >= 2 * STEP) thirds->is_late[c] |= 1ull << i;
        }
    }
}

// One row of pixels to planes of `stride` bytes.
static void separate(const u8 *from, int64_t width, int64_t channels, u8 *planes, int64_t stride, const Thirds *thirds) {
    for (int64_t x = 0; x < width; x += STEP) {
        if (channels == 1) {
            _mm512_storeu_si512(planes + x, _mm512_maskz_loadu_epi8(lower(width - x), from + x));
            continue;
        }
        const int64_t left = 3 * (width - x);
        const __m512i a = _mm512_maskz_loadu_epi8(lower(left), from + 3 * x);
        const __m512i b = _mm512_maskz_loadu_epi8(lower(left - STEP), from + 3 * x + STEP);
        const __m512i c = _mm512_maskz_loadu_epi8(lower(left - 2 * STEP), from + 3 * x + 2 * STEP);
        for (int i = 0; i < 3; i++) {
            const __m512i early = _mm512_permutex2var_epi8(a, _mm512_loadu_si512(thirds->early[i]), b);
            const __m512i all =
                _mm512_mask_permutexvar_epi8(early, thirds->is_late[i], _mm512_loadu_si512(thirds->late[i]), c);
            _mm512_storeu_si512(planes + i * stride + x, all);
        }
    }
}

// One row, as planes of `stride` bytes, to planes of `to_stride` bytes.
static void across(const u8 *planes, int64_t stride, int64_t channels, const Axis *axis, const Group *groups,
                   const int32_t *weights, u8 *to, int64_t to_stride) {
    const int64_t pairs = axis->taps / 2;
    const __m512i half = _mm512_set1_epi32(1 << (axis->precision - 1)), zero = _mm512_setzero_si512();
    const __m128i shift = _mm_cvtsi64_si128(axis->precision);
    const __m512i as_words = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 1, 0, 4, 0, 5, 0, 8, 0, 9, 0, 12, 0, 13, 0));
    for (int64_t g = 0; g * LANES < axis->to; g++, weights += pairs * LANES) {
        const Group *group = groups + g;
        const __m512i places = _mm512_loadu_si512(group->places), first = _mm512_loadu_si512(group->first);
        __m512i sums[3] = {half, half, half};
        for (int64_t k = 0; k < pairs; k++) {
            const __m512i weight = _mm512_loadu_si512(weights + k * LANES);
            for (int64_t c = 0; c < 3; c++) {
                if (c >= channels) break;
                const u8 *plane = planes + c * stride + 2 * k;
                __m512i inputs;
                if (group->wide)
                    inputs = _mm512_maskz_shuffle_epi8(WORDS, _mm512_i32gather_epi32(first, plane, 1), as_words);
                else
                    inputs = _mm512_maskz_permutexvar_epi8(WORDS, places, _mm512_loadu_si512(plane + group->start));
                sums[c] = _mm512_dpwssd_epi32(sums[c], inputs, weight);
            }
        }
        for (int64_t c = 0; c < 3; c++) {
            if (c >= channels) break;
            const __m512i sum = _mm512_max_epi32(_mm512_sra_epi32(sums[c], shift), zero);
            _mm_storeu_si128((__m128i *)(to + c * to_stride + g * LANES), _mm512_cvtusepi32_epi8(sum));
        }
    }
}

// One output row of one channel from `taps` rows of it.
static void down(const u8 *const *rows, int64_t offset, const int16_t *weights, const Axis *axis, int64_t width, u8 *to) {
    const int64_t pairs = axis->taps / 2;
    const __m512i half = _mm512_set1_epi32(1 << (axis->precision - 1)), zero = _mm512_setzero_si512();
    const __m128i shift = _mm_cvtsi64_si128(axis->precision);
    for (int64_t x = 0; x < width; x += STEP) {
        __m512i a = half, b = half, c = half, d = half;
        for (int64_t k = 0; k < pairs; k++) {
            const __m512i weight = _mm512_set1_epi32(((const int32_t *)weights)[k]);
            const __m512i upper = _mm512_loadu_si512(rows[2 * k] + offset + x);
            const __m512i under = _mm512_loadu_si512(rows[2 * k + 1] + offset + x);
            const __m512i even = _mm512_unpacklo_epi8(upper, under), odd = _mm512_unpackhi_epi8(upper, under);
            a = _mm512_dpwssd_epi32(a, _mm512_unpacklo_epi8(even, zero), weight);
            b = _mm512_dpwssd_epi32(b, _mm512_unpackhi_epi8(even, zero), weight);
            c = _mm512_dpwssd_epi32(c, _mm512_unpacklo_epi8(odd, zero), weight);
            d = _mm512_dpwssd_epi32(d, _mm512_unpackhi_epi8(odd, zero), weight);
        }
        a = _mm512_packs_epi32(_mm512_sra_epi32(a, shift), _mm512_sra_epi32(b, shift));
        c = _mm512_packs_epi32(_mm512_sra_epi32(c, shift), _mm512_sra_epi32(d, shift));
        _mm512_mask_storeu_epi8(to + x, lower(width - x), _mm512_packus_epi16(a, c));
    }
}

// from: (height, width, channels), its rows `row_bytes` apart -> to: (channels, vertical->to, horizontal->to).
// Channels are 1 or 3. Returns 1 where there is no memory.
int resize(const u8 *from, int64_t row_bytes, int64_t channels, const Axis *horizontal, const Axis *vertical,
           int64_t mirrored, u8 *to) {
    const int64_t width = horizontal->to, height = vertical->to, num_groups = rounded_up(width, LANES) / LANES;
    const int64_t stride = rounded_up(horizontal->from, STEP) + horizontal->taps + SPARE;
    const int64_t to_stride = rounded_up(width, STEP);
    int64_t ring = 1;
    while (ring < vertical->taps) ring *= 2;
    const int64_t group_bytes = rounded_up(num_groups * (int64_t)sizeof(Group), STEP);
    const int64_t weight_bytes = num_groups * LANES * horizontal->taps * 2;
    const int64_t pointer_bytes = rounded_up(vertical->taps * (int64_t)sizeof(u8 *), STEP);
    u8 *memory = aligned_alloc(
        STEP, rounded_up(group_bytes + weight_bytes + pointer_bytes + channels * (stride + ring * to_stride), STEP));
    if (memory == NULL) return 1;
    Group *groups = (Group *)memory;
    int32_t *weights = (int32_t *)(memory + group_bytes);
    const u8 **rows = (const u8 **)(memory + group_bytes + weight_bytes);
    u8 *made = memory + group_bytes + weight_bytes + pointer_bytes, *planes = made + channels * ring * to_stride;

    Thirds thirds;
    find_thirds(&thirds);
    plan(horizontal, mirrored, groups, weights);
    int64_t done = 0;
    for (int64_t y = 0; y < height; y++) {
        const int64_t first = vertical->first[y];
        for (; done < first + vertical->taps && done < vertical->from; done++) {
            if (done < first) continue;
            separate(from + done * row_bytes, horizontal->from, channels, planes, stride, &thirds);
            across(planes, stride, channels, horizontal, groups, weights, made + (done % ring) * channels * to_stride,
                   to_stride);
        }
        for (int64_t k = 0; k < vertical->taps; k++) rows[k] = made + ((first + k) % ring) * channels * to_stride;
        for (int64_t c = 0; c < channels; c++)
            down(rows, c * to_stride, vertical->weights + y * vertical->taps, vertical, width,
                 to + (c * height + y) * width);
    }
    free(memory);
    return 0;
}

// A table of 256 bytes, in four registers, at 64 places.
static inline __m512i taken(const __m512i table[4], __m512i places) {
    const __m512i low = _mm512_permutex2var_epi8(table[0], places, table[1]);
    const __m512i high = _mm512_permutex2var_epi8(table[2], places, table[3]);
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(places), low, high);
}

// to[i] = table[from[i]] of 32-bit numbers.
void look_up(const u8 *from, int64_t count, const uint32_t *table, uint32_t *to) {
    u8 bytes[4][4][STEP];  // of a number, of the table
    for (int i = 0; i < 256; i++)
        for (int byte = 0; byte < 4; byte++) bytes[byte][i / STEP][i % STEP] = table[i] >> 8 * byte;
    __m512i tables[4][4];
    for (int byte = 0; byte < 4; byte++)
        for (int part = 0; part < 4; part++) tables[byte][part] = _mm512_loadu_si512(bytes[byte][part]);
    // Unpacking works in quarters of a register: it gets each fourth four bytes, and gives them in order.
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    int64_t i = 0;
    for (; i + STEP <= count; i += STEP) {
        const __m512i places = _mm512_permutexvar_epi32(order, _mm512_loadu_si512(from + i));
        const __m512i a = taken(tables[0], places), b = taken(tables[1], places);
        const __m512i c = taken(tables[2], places), d = taken(tables[3], places);
        const __m512i low_ab = _mm512_unpacklo_epi8(a, b), high_ab = _mm512_unpackhi_epi8(a, b);
        const __m512i low_cd = _mm512_unpacklo_epi8(c, d), high_cd = _mm512_unpackhi_epi8(c, d);
        _mm512_storeu_si512(to + i, _mm512_unpacklo_epi16(low_ab, low_cd));
        _mm512_storeu_si512(to + i + 16, _mm512_unpackhi_epi16(low_ab, low_cd));
        _mm512_storeu_si512(to + i + 32, _mm512_unpacklo_epi16(high_ab, high_cd));
        _mm512_storeu_si512(to + i + 48, _mm512_unpackhi_epi16(high_ab, high_cd));
    }
    for (; i < count; i++) to[i] = table[from[i]];
}
