/* Vectors of numbers for whoever computes here, as wide as the instructions it is built for: see the flags in
 * `worker/engine/attention.py`. KERNEL names them; where it is not defined there are none. Every product is added in one
 * rounding by instruction, for compilers differ in what they fuse. */
#ifndef PENSTOCK_VECTORS_H
#define PENSTOCK_VECTORS_H

#include <stdint.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#define KERNEL "avx512"
enum { LANES = 16 };
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define KERNEL "avx2"
enum { LANES = 8 };
#endif

#ifdef KERNEL

typedef float vec __attribute__((vector_size(LANES * 4)));
typedef int32_t ivec __attribute__((vector_size(LANES * 4)));
typedef uint32_t uvec __attribute__((vector_size(LANES * 4)));
typedef float loose_vec __attribute__((vector_size(LANES * 4), aligned(4)));
typedef int32_t loose_ivec __attribute__((vector_size(LANES * 4), aligned(4)));
typedef uint16_t halves __attribute__((vector_size(LANES * 2)));
typedef uint16_t loose_halves __attribute__((vector_size(LANES * 2), aligned(2)));

#define INLINE static inline __attribute__((always_inline))

enum { ALL_LANES = (1 << LANES) - 1 };

INLINE vec splat(float x) { return x - (vec){0}; }

#if defined(__AVX512F__) && defined(__AVX512DQ__)

INLINE vec as_floats(halves a) { return (vec)_mm512_cvtph_ps((__m256i)a); }
INLINE vec larger(vec a, vec b) { return (vec)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE vec smaller(vec a, vec b) { return (vec)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE float largest(vec a) { return _mm512_reduce_max_ps((__m512)a); }
INLINE float total(vec a) { return _mm512_reduce_add_ps((__m512)a); }
INLINE vec add_product(vec sum, vec a, vec b) { return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum); }
INLINE ivec nearest(vec a) { return (ivec)_mm512_cvtps_epi32((__m512)a); }
INLINE int some_of(ivec a) { return _mm512_test_epi32_mask((__m512i)a, (__m512i)a) != 0; }
INLINE unsigned lanes_with(halves a, uint16_t what) {
    __m256i same = (__m256i)(a == what);
    __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(same), _mm256_extracti128_si256(same, 1));
    return (unsigned)_mm_movemask_epi8(bytes);
}

/* Lane i of the result: the sum of the lanes of a[i]. */
INLINE vec sums(vec *a) {
    __m512 b[16], c[16], d[16];
    for (int i = 0; i < 8; i++) {
        b[i] = _mm512_add_ps(_mm512_unpacklo_ps((__m512)a[2 * i], (__m512)a[2 * i + 1]),
                             _mm512_unpackhi_ps((__m512)a[2 * i], (__m512)a[2 * i + 1]));
    }
    for (int i = 0; i < 4; i++) {
        __m512d low = _mm512_castps_pd(b[2 * i]), high = _mm512_castps_pd(b[2 * i + 1]);
        c[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(low, high)),
                             _mm512_castpd_ps(_mm512_unpackhi_pd(low, high)));
    }
    for (int i = 0; i < 2; i++) {
        d[i] = _mm512_add_ps(_mm512_shuffle_f32x4(c[2 * i], c[2 * i + 1], 0x88),
                             _mm512_shuffle_f32x4(c[2 * i], c[2 * i + 1], 0xdd));
    }
    return (vec)_mm512_add_ps(_mm512_shuffle_f32x4(d[0], d[1], 0x88), _mm512_shuffle_f32x4(d[0], d[1], 0xdd));
}

#else

INLINE vec as_floats(halves a) { return (vec)_mm256_cvtph_ps((__m128i)a); }
INLINE vec larger(vec a, vec b) { return (vec)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE vec smaller(vec a, vec b) { return (vec)_mm256_min_ps((__m256)a, (__m256)b); }
INLINE float largest(vec a) {
    __m128 b = _mm_max_ps(_mm256_castps256_ps128((__m256)a), _mm256_extractf128_ps((__m256)a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_shuffle_ps(b, b, 1)));
}
INLINE float total(vec a) {
    __m128 b = _mm_add_ps(_mm256_castps256_ps128((__m256)a), _mm256_extractf128_ps((__m256)a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_shuffle_ps(b, b, 1)));
}
INLINE vec add_product(vec sum, vec a, vec b) { return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)sum); }
INLINE ivec nearest(vec a) { return (ivec)_mm256_cvtps_epi32((__m256)a); }
INLINE int some_of(ivec a) { return _mm256_movemask_ps((__m256)a) != 0; }
INLINE unsigned lanes_with(halves a, uint16_t what) {
    __m128i same = (__m128i)(a == what);
    return (unsigned)_mm_movemask_epi8(_mm_packs_epi16(same, same)) & ALL_LANES;
}
INLINE vec sums(vec *a) {
    __m256 b[4], c[2];
    for (int i = 0; i < 4; i++) b[i] = _mm256_hadd_ps((__m256)a[2 * i], (__m256)a[2 * i + 1]);
    for (int i = 0; i < 2; i++) c[i] = _mm256_hadd_ps(b[2 * i], b[2 * i + 1]);
    return (vec)_mm256_add_ps(_mm256_permute2f128_ps(c[0], c[1], 0x20), _mm256_permute2f128_ps(c[0], c[1], 0x31));
}

#endif

INLINE vec power_of_two(ivec n) { return (vec)((uvec)(n + 127) << 23); }

/* e to the x, for x up to 0: within 1.02 units of the last place (all floats tried); 0 below -87, whatever comes out
 * on the way; no number for none. */
INLINE vec exp_of(vec x) {
    ivec tiny = x < splat(-87.0f);
    ivec n = nearest(x * splat(1.44269504f));
    vec whole = __builtin_convertvector(n, vec);
    vec r = add_product(add_product(x, whole, splat(-0.693359375f)), whole, splat(2.12194440e-4f));
    vec y = splat(1.9875691500e-4f);
    y = add_product(splat(1.3981999507e-3f), y, r);
    y = add_product(splat(8.3334519073e-3f), y, r);
    y = add_product(splat(4.1665795894e-2f), y, r);
    y = add_product(splat(1.6666665459e-1f), y, r);
    y = add_product(splat(5.0000001201e-1f), y, r);
    y = add_product(r, y * r, r) + splat(1.0f);
    return (vec)((ivec)(y * power_of_two(n)) & ~tiny);
}

#endif
#endif
