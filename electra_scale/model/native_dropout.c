/* Dropout by xoshiro128++ (Blackman and Vigna 2021, Scrambled linear pseudorandom number generators), sixteen generators
   side by side. Each block of values has generators of its own, whose states come from the seed and its place by
   SplitMix64, as their authors advise. So what is dropped follows from seed and place alone, on any number of threads,
   and nothing need be kept for the backward pass. */

#include <stdint.h>

#define LANES 16
#define AT_ONCE (2 * LANES) /* Numbers of 16 bits. */
#define BLOCK 4096
#define FEWEST 16384 /* Values from which on threads share them. */

typedef struct {
    uint32_t a[LANES], b[LANES], c[LANES], d[LANES];
} generators;

static inline uint64_t split_mix(uint64_t state)
{
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9u;
    state = (state ^ (state >> 27)) * 0x94D049BB133111EBu;
    return state ^ (state >> 31);
}

static inline void begin(generators *own, uint64_t seed, uint64_t block)
{
    /* So that neighbouring seeds have nothing in common. */
    seed = split_mix(seed);
    for (uint64_t lane = 0; lane < LANES; lane++) {
        uint64_t place = 2 * (block * LANES + lane);
        uint64_t first = split_mix(seed + (place + 1) * 0x9E3779B97F4A7C15u);
        uint64_t second = split_mix(seed + (place + 2) * 0x9E3779B97F4A7C15u);
        own->a[lane] = (uint32_t)first;
        own->b[lane] = (uint32_t)(first >> 32);
        own->c[lane] = (uint32_t)second;
        /* A state of zeros would stay so. */
        own->d[lane] = (uint32_t)(second >> 32) | 1;
    }
}

static inline uint32_t rotated(uint32_t number, int by) { return number << by | number >> (32 - by); }

static inline void draw(generators *own, uint16_t *numbers)
{
    union {
        uint32_t words[LANES];
        uint16_t numbers[AT_ONCE];
    } drawn;
#pragma omp simd
    for (int lane = 0; lane < LANES; lane++) {
        uint32_t a = own->a[lane], b = own->b[lane], c = own->c[lane], d = own->d[lane];
        drawn.words[lane] = rotated(a + d, 7) + a;
        c ^= a;
        d ^= b;
        own->a[lane] = a ^ d;
        own->b[lane] = b ^ c;
        own->c[lane] = c ^ b << 9;
        own->d[lane] = rotated(d, 11);
    }
    for (int n = 0; n < AT_ONCE; n++) numbers[n] = drawn.numbers[n];
}

union number {
    float value;
    uint32_t bits;
};

/* bf16 times a number, rounded to the nearest, of two to the even one. */
static inline uint16_t scaled_bf16(uint16_t value, float scale)
{
    union number wide = {.bits = (uint32_t)value << 16};
    wide.value *= scale;
    uint32_t rounded = (wide.bits + 0x7fffu + ((wide.bits >> 16) & 1)) >> 16;
    return (uint16_t)(wide.value != wide.value ? 0x7fc0u : rounded);
}

static inline float scaled_float(float value, float scale) { return value * scale; }

#define DROPOUT(NAME, TYPE, SCALED)                                                                                   \
    void NAME(const TYPE *values, TYPE *out, int64_t count, uint64_t seed, uint32_t dropped, float scale)              \
    {                                                                                                                 \
        int64_t blocks = (count + BLOCK - 1) / BLOCK;                                                                 \
        _Pragma("omp parallel for schedule(static) if (count >= FEWEST)")                                             \
        for (int64_t block = 0; block < blocks; block++) {                                                            \
            generators own;                                                                                           \
            uint16_t numbers[AT_ONCE];                                                                                \
            begin(&own, seed, (uint64_t)block);                                                                       \
            int64_t end = (block + 1) * BLOCK < count ? (block + 1) * BLOCK : count;                                  \
            for (int64_t at = block * BLOCK; at < end; at += AT_ONCE) {                                               \
                draw(&own, numbers);                                                                                  \
                int size = end - at < AT_ONCE ? (int)(end - at) : AT_ONCE;                                            \
                _Pragma("omp simd")                                                                                   \
                for (int n = 0; n < size; n++)                                                                        \
                    out[at + n] = numbers[n] >= dropped ? SCALED(values[at + n], scale) : 0;                          \
            }                                                                                                         \
        }                                                                                                             \
    }

DROPOUT(drop_float, float, scaled_float)
DROPOUT(drop_bf16, uint16_t, scaled_bf16)
