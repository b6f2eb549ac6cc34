/* What is done with each number of a tile, for a processor: each row is gone over twice, strip by strip, while it is in
   the core's first cache. native.py says what the arguments are. Absent arrays are null; strides count numbers. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>

/* Written out, and contraction forbidden: equal scores give equal bits wherever they stand and whatever a loop's form. */
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define MULTIPLY_ADD(a, b, c) __builtin_fmaf(a, b, c)
#else
#define MULTIPLY_ADD(a, b, c) ((a) * (b) + (c))
#endif

#define HIGHEST 88.0f /* As in hp_loss: exp of more overflows. */
#define LOWEST (-3.4028234663852886e38f)
#define FINITE (-1e30f)
#define UNDERFLOWS (-104.0f)
#define ROUNDER 12582912.0f /* 1.5 * 2^23: a sum with it has no digits behind the point. */

union number {
    float value;
    uint32_t bits;
};

static inline float power_of_two(int32_t exponent)
{
    union number found = {.bits = (uint32_t)(exponent + 127) << 23};
    return found.value;
}

/* exp(x) of x <= 0, by 2^n exp(r) with |r| <= log(2) / 2, whose Taylor series ends where float32 does. */
static inline float exponential(float x)
{
    float within = x < UNDERFLOWS ? UNDERFLOWS : x;
    union number sum = {.value = MULTIPLY_ADD(within, 1.44269504f, ROUNDER)};
    union number rounder = {.value = ROUNDER};
    int32_t exponent = (int32_t)(sum.bits - rounder.bits);
    float whole = sum.value - ROUNDER;
    /* log(2) in two parts, the first with zeros at its end, so that its product with n is exact. */
    float rest = MULTIPLY_ADD(whole, -0.693359375f, within);
    rest = MULTIPLY_ADD(whole, 2.12194440e-4f, rest);
    float series = 1.0f / 5040;
    series = MULTIPLY_ADD(series, rest, 1.0f / 720);
    series = MULTIPLY_ADD(series, rest, 1.0f / 120);
    series = MULTIPLY_ADD(series, rest, 1.0f / 24);
    series = MULTIPLY_ADD(series, rest, 1.0f / 6);
    series = MULTIPLY_ADD(series, rest, 0.5f);
    series = MULTIPLY_ADD(series, rest, 1.0f);
    series = MULTIPLY_ADD(series, rest, 1.0f);
    /* In two factors, since 2^n alone may be below the smallest normal number. */
    int32_t half = exponent >> 1;
    float found = series * power_of_two(half) * power_of_two(exponent - half);
    return x < UNDERFLOWS ? 0.0f : found;
}

/* softplus(x) = max(x, 0) + log(1 + exp(-|x|)), its root with rms, plus the floor. */
static inline float hardness(float x, float floor, int rms)
{
    x = x > HIGHEST ? HIGHEST : x;
    float small = exponential(-fabsf(x));
    /* log(1 + y) / y by the polynomial through its values at the ten Chebyshev points of [0, 1]. */
    float series = -3.17605701e-3f;
    series = MULTIPLY_ADD(series, small, 1.95425265e-2f);
    series = MULTIPLY_ADD(series, small, -5.63736111e-2f);
    series = MULTIPLY_ADD(series, small, 1.05436236e-1f);
    series = MULTIPLY_ADD(series, small, -1.52696669e-1f);
    series = MULTIPLY_ADD(series, small, 1.96632743e-1f);
    series = MULTIPLY_ADD(series, small, -2.49516159e-1f);
    series = MULTIPLY_ADD(series, small, 3.33297104e-1f);
    series = MULTIPLY_ADD(series, small, -4.99998927e-1f);
    series = MULTIPLY_ADD(series, small, 1.0f);
    float positive = MULTIPLY_ADD(series, small, x < 0.0f ? 0.0f : x);
    return (rms ? sqrtf(positive) : positive) + floor;
}

/* Scores of a row to out, which may be where its product is: product + bias + offset, special at place, then added. */
static inline void score(const float *product, const float *bias, const float *offset, const float *special,
                         int64_t place, const float *added, int64_t columns, float *out)
{
    float shift = offset ? *offset : 0.0f;
    if (!product)
        for (int64_t c = 0; c < columns; c++) out[c] = shift;
    else if (bias && offset)
#pragma omp simd
        for (int64_t c = 0; c < columns; c++) out[c] = product[c] + bias[c] + shift;
    else if (bias)
#pragma omp simd
        for (int64_t c = 0; c < columns; c++) out[c] = product[c] + bias[c];
    else
#pragma omp simd
        for (int64_t c = 0; c < columns; c++) out[c] = product[c] + shift;
    if (special && place >= 0 && place < columns) out[place] = *special;
    if (added)
#pragma omp simd
        for (int64_t c = 0; c < columns; c++) out[c] += added[c];
}

static inline int64_t end_of(int64_t begin, int64_t strip, int64_t columns)
{
    return begin + strip < columns ? begin + strip : columns;
}

/* Of a strip that begins at a column, of which those in use are summed and the rest set to 0. All strips are summed
   here, so that equal numbers have equal sums whatever kernel wrote them. */
static float sum_of_strip(float *own, int64_t begin, int64_t strip, int64_t columns)
{
    int64_t end = end_of(begin, strip, columns);
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = begin; c < end; c++) sum += own[c];
    for (int64_t c = end > begin ? end : begin; c < begin + strip; c++) own[c] = 0.0f;
    return sum;
}

void exponentials(const float *product, const float *bias, const float *offset, const float *special,
                  const int64_t *place, const float *added, float *out, float *top, float *sums, float *relative,
                  float *spread, float *in_tile, int64_t rows, int64_t columns, int64_t width, int64_t strip,
                  int64_t product_stride, int64_t added_stride, int64_t out_stride, int64_t relative_stride)
{
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const float *scores_of_product = product ? product + row * product_stride : NULL;
        float *own = out + row * out_stride;
        int64_t at = place ? place[row] : -1;
        /* Before anything is written over it. */
        if (in_tile && at >= 0 && at < columns) in_tile[row] = scores_of_product[at] + (bias ? bias[at] : 0.0f);
        score(scores_of_product, bias, offset ? offset + row : NULL, special ? special + row : NULL, at,
              added ? added + row * added_stride : NULL, columns, own);
        /* A tile of nothing but -inf must give zeros, not the NaN of -inf - -inf. */
        float highest = LOWEST;
#pragma omp simd reduction(max : highest)
        for (int64_t c = 0; c < columns; c++) highest = own[c] > highest ? own[c] : highest;
        float total = 0.0f, entropic = 0.0f;
        for (int64_t begin = 0, number = 0; begin < width; begin += strip, number++) {
            int64_t end = end_of(begin, strip, columns);
            if (spread) {
                /* Where the exponential is 0 its product with -inf must be 0 too. */
#pragma omp simd reduction(+ : entropic)
                for (int64_t c = begin; c < end; c++) {
                    float difference = own[c] - highest;
                    float found = exponential(difference);
                    if (relative) relative[row * relative_stride + c] = difference;
                    own[c] = found;
                    entropic += (difference < FINITE ? FINITE : difference) * found;
                }
            } else if (relative) {
#pragma omp simd
                for (int64_t c = begin; c < end; c++) {
                    float difference = own[c] - highest;
                    relative[row * relative_stride + c] = difference;
                    own[c] = exponential(difference);
                }
            } else {
#pragma omp simd
                for (int64_t c = begin; c < end; c++) own[c] = exponential(own[c] - highest);
            }
            float sum = sum_of_strip(own, begin, strip, columns);
            sums[row * (width / strip) + number] = sum;
            total += sum;
        }
        /* A maximum passes over what is not a number; the sum does not. */
        top[row] = total != total ? total : highest;
        if (spread) spread[row] = entropic;
    }
}

static inline void hardened_row(const float *exponentials, float *own, float unit, float floor, int rms, float *sums,
                                int64_t columns, int64_t width, int64_t strip)
{
    float of_unit = hardness(unit, floor, rms), inverse = 1.0f / of_unit;
    for (int64_t begin = 0, number = 0; begin < width; begin += strip, number++) {
        int64_t end = end_of(begin, strip, columns);
#pragma omp simd
        for (int64_t c = begin; c < end; c++) {
            float found = hardness(own[c], floor, rms);
            /* Where it is constant the tilt is 1, and the inverse is rounded. */
            own[c] = exponentials[c] * (found == of_unit ? 1.0f : found * inverse);
        }
        sums[number] = sum_of_strip(own, begin, strip, columns);
    }
}

void hardened(const float *product, const float *offset, const float *special, const int64_t *place,
              const float *unit, const float *exponentials, float *out, float *sums, int64_t rows, int64_t columns,
              int64_t width, int64_t strip, int64_t product_stride, int64_t exponentials_stride, int64_t out_stride,
              float floor, int rms)
{
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        float *own = out + row * out_stride;
        const float *exponentials_of_row = exponentials + row * exponentials_stride;
        float *sums_of_row = sums + row * (width / strip);
        score(product ? product + row * product_stride : NULL, NULL, offset ? offset + row : NULL,
              special ? special + row : NULL, place ? place[row] : -1, NULL, columns, own);
        if (rms)
            hardened_row(exponentials_of_row, own, unit[row], floor, 1, sums_of_row, columns, width, strip);
        else
            hardened_row(exponentials_of_row, own, unit[row], floor, 0, sums_of_row, columns, width, strip);
    }
}

void softened(const float *relative, float *out, float *sums, int64_t rows, int64_t columns, int64_t width,
              int64_t strip, int64_t relative_stride, int64_t out_stride, float temperature)
{
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const float *of_row = relative + row * relative_stride;
        float *own = out + row * out_stride;
        for (int64_t begin = 0, number = 0; begin < width; begin += strip, number++) {
            int64_t end = end_of(begin, strip, columns);
#pragma omp simd
            for (int64_t c = begin; c < end; c++) own[c] = exponential(of_row[c] / temperature);
            sums[row * (width / strip) + number] = sum_of_strip(own, begin, strip, columns);
        }
    }
}

void summed(float *tile, float *sums, int64_t rows, int64_t columns, int64_t width, int64_t strip, int64_t tile_stride)
{
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++)
        for (int64_t begin = 0, number = 0; begin < width; begin += strip, number++)
            sums[row * (width / strip) + number] = sum_of_strip(tile + row * tile_stride, begin, strip, columns);
}
