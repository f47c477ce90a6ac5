/* Attention on the processor, for the two shapes a step has: one row of each of many streams (decode), and some rows
 * of a few streams (prefill).
 *
 * What a row becomes depends on its own query and its own cells alone: not on the other rows of the call, on the
 * streams beside it, on the number of threads, or on cells that its mask hides. So every sum is taken in an order
 * that only the place of a cell in its stream decides: spans of cells from the first on, in each the cells in order.
 * And every product is added in one rounding, by instruction: compilers differ, and one alone may differ from loop to
 * loop, in whether they fuse a product and a sum. A cell that is hidden from all rows of a call is not read, for what
 * another request left there may be no number; one that is hidden from some of them must hold finite numbers. Even so
 * it decides the sign of a zero, 0 times what it holds; so 0 is added to what comes out, and no zero has a sign.
 *
 * Decode: a head's 16 (or 8) scores at once, each a dot product over the head's numbers.
 * Prefill: queries are turned, so that a vector holds one number of many rows; then both products are sums of
 * broadcast times vector, and the softmax needs no sum across a vector.
 */

#include "attention.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "vectors.h"

#ifndef KERNEL

const char *attention_kernel(void) { return NULL; }
int attention_fits(int head) { (void)head; return 0; }
void attend(const struct attention *call, int threads) { (void)call; (void)threads; }

#else

/* WIDTH: vectors of rows that prefill takes at once. SPAN: cells between two looks at the running maximum. MOST_HEADS:
 * of one stream that a thread decodes at once; the more, the longer the pieces in which memory is read. */
enum { WIDTH = LANES / 4, ROWS = WIDTH * LANES, SPAN = 64, MOST_HEADS = 16, LINE = 64 };

static const float LOWEST = -1e30f; /* below every score, and finite: a difference of two is no NaN */
enum { HIDDEN = 0xFC00 };           /* what a mask says of a hidden cell: minus infinity, as a half float */

INLINE float half_to_float(uint16_t bits) { return _cvtsh_ss(bits); }
INLINE halves load(const uint16_t *at) { return *(const loose_halves *)at; }
INLINE vec load_half(const uint16_t *at) { return as_floats(load(at)); }

INLINE const uint16_t *mask_of(const struct attention *c, int stream, int row) {
    if (c->mask == NULL) return NULL;
    return (const uint16_t *)(c->mask + row * c->mask_row + (stream % c->mask_streams) * c->mask_stream);
}

/* A row's mask for LANES cells, of which `left` exist; those that do not are hidden. */
INLINE halves mask_lanes(const uint16_t *mask, int left) {
    if (mask != NULL && left >= LANES) return load(mask);
    halves lanes = {0};
    for (int i = 0; i < LANES; i++) lanes[i] = i >= left ? HIDDEN : mask != NULL ? mask[i] : 0;
    return lanes;
}

/* -- one row of each stream */

struct running {
    vec sum[LARGEST_HEAD / LANES];
    vec query[LARGEST_HEAD / LANES];
    float highest, weight;
};

/* Ask for the same head's numbers some cells ahead: rows lie too far apart for the processor to guess it. */
INLINE void fetch(const uint16_t *at, size_t ahead, int parts) {
    for (int p = 0; p < parts; p += LINE / (LANES * 2)) __builtin_prefetch((const char *)(at + p * LANES) + ahead, 0, 2);
}

/* LANES cells from `cell` on: their weights, and their values added. `seen`: a bit for each that is there and visible,
 * the others are not read; `added`: minus infinity for those. */
INLINE void decode_cells(struct running *s, int parts, const char *k, size_t k_cell, const char *v, size_t v_cell,
                         vec added, unsigned seen, float scale) {
    vec dots[LANES];
    for (int i = 0; i < LANES; i++) {
        vec dot = {0};
        if (seen >> i & 1) {
            const uint16_t *key = (const uint16_t *)(k + i * k_cell);
            for (int p = 0; p < parts; p++) dot = add_product(dot, load_half(key + p * LANES), s->query[p]);
            fetch(key, LANES * k_cell, parts);
        }
        dots[i] = dot;
    }
    vec scores = add_product(added, sums(dots), splat(scale));
    float top = largest(scores);
    if (top > s->highest) {
        float shrink = exp_of(splat(s->highest - top))[0];
        for (int p = 0; p < parts; p++) s->sum[p] *= splat(shrink);
        s->weight *= shrink;
        s->highest = top;
    }
    vec weights = exp_of(scores - splat(s->highest));
    s->weight += total(weights);
    float each[LANES] __attribute__((aligned(64)));
    *(vec *)each = weights;
    vec sum[LARGEST_HEAD / LANES];
    for (int p = 0; p < parts; p++) sum[p] = s->sum[p];
    for (int i = 0; i < LANES; i++) {
        if (!(seen >> i & 1)) continue;
        const uint16_t *value = (const uint16_t *)(v + i * v_cell);
        for (int p = 0; p < parts; p++) sum[p] = add_product(sum[p], splat(each[i]), load_half(value + p * LANES));
        fetch(value, LANES * v_cell, parts);
    }
    for (int p = 0; p < parts; p++) s->sum[p] = sum[p];
}

/* `count` heads of one stream from `first` on, cell by cell, so that memory is read in the order it lies. */
INLINE void decode(const struct attention *c, int stream, int cells, int first, int count, int parts) {
    struct running state[MOST_HEADS];
    int share = c->heads / c->key_heads;
    for (int h = 0; h < count; h++) {
        struct running *s = &state[h];
        const float *query = (const float *)(c->q + (first + h) * c->q_head + stream * c->q_stream);
        for (int p = 0; p < parts; p++) {
            s->query[p] = *(const loose_vec *)(query + p * LANES);
            s->sum[p] = (vec){0};
        }
        s->highest = LOWEST;
        s->weight = 0;
    }
    const uint16_t *mask = mask_of(c, stream, 0);
    for (int cell = 0; cell < cells; cell += LANES) {
        halves lanes = mask_lanes(mask == NULL ? NULL : mask + cell, c->cells - cell);
        unsigned seen = lanes_with(lanes, HIDDEN) ^ ALL_LANES;
        if (seen == 0) continue;
        for (int h = 0; h < count; h++) {
            int key_head = (first + h) / share;
            decode_cells(&state[h], parts, c->k + cell * c->k_cell + key_head * c->k_head + stream * c->k_stream,
                         c->k_cell, c->v + cell * c->v_cell + key_head * c->v_head + stream * c->v_stream, c->v_cell,
                         as_floats(lanes), seen, c->scale);
        }
    }
    for (int h = 0; h < count; h++) {
        float *out = (float *)(c->out + (first + h) * c->out_head + stream * c->out_stream);
        float by = state[h].weight > 0 ? 1 / state[h].weight : 0;
        for (int p = 0; p < parts; p++) *(loose_vec *)(out + p * LANES) = add_product(splat(0), state[h].sum[p], splat(by));
    }
}

/* -- several rows of each stream */

struct tile {
    vec query[LARGEST_HEAD][WIDTH];  /* one number of all rows */
    vec sum[LARGEST_HEAD][WIDTH];
    vec weights[SPAN][WIDTH];        /* one cell's score, then weight, for all rows */
    vec mask[SPAN][WIDTH];
    float cells[SPAN][LARGEST_HEAD] __attribute__((aligned(64)));
    vec highest[WIDTH], weight[WIDTH];
};

/* to[i] += the sum over j of from(i, j) * by[j], for i in [0, count): from(i, j) = from[i * i_step + j * j_step]. */
INLINE void multiply_block(vec (*to)[WIDTH], int count, const float *from, int i_step, int j_step, vec (*by)[WIDTH],
                         int length, int width, int at_once) {
    for (int i = 0; i < count; i += at_once) {
        vec sum[16][WIDTH];
        for (int a = 0; a < at_once; a++) {
            for (int w = 0; w < width; w++) sum[a][w] = to[i + a][w];
        }
        for (int j = 0; j < length; j++) {
            for (int a = 0; a < at_once; a++) {
                vec factor = splat(from[(i + a) * i_step + j * j_step]);
                for (int w = 0; w < width; w++) sum[a][w] = add_product(sum[a][w], factor, by[j][w]);
            }
        }
        for (int a = 0; a < at_once; a++) {
            for (int w = 0; w < width; w++) to[i + a][w] = sum[a][w];
        }
    }
}

static void products(vec (*to)[WIDTH], int count, const float *from, int i_step, int j_step, vec (*by)[WIDTH],
                     int length, int width) {
    if (width == 1) multiply_block(to, count, from, i_step, j_step, by, length, 1, 8);
    else if (width == 2) multiply_block(to, count, from, i_step, j_step, by, length, 2, LANES == 16 ? 8 : 4);
    else if (WIDTH > 3 && width == 3) multiply_block(to, count, from, i_step, j_step, by, length, 3, 4);
    else multiply_block(to, count, from, i_step, j_step, by, length, WIDTH, 4);
}

/* A span's keys or values as floats; zeros for cells that no row sees. */
static void widen(struct tile *t, const char *from, size_t step, uint64_t seen, int head) {
    for (int i = 0; i < SPAN; i++) {
        if (!(seen >> i & 1)) continue;
        const uint16_t *at = (const uint16_t *)(from + i * step);
        for (int d = 0; d < head; d += LANES) *(vec *)&t->cells[i][d] = load_half(at + d);
    }
    for (int i = 0; i < SPAN && ~seen; i++) {
        if (!(seen >> i & 1)) memset(t->cells[i], 0, head * sizeof(float));
    }
}

/* Which cells of a span some row sees, as bits. `masked`: whether there is something to add to the scores; then it is
 * in t->mask. */
static uint64_t read_mask(struct tile *t, const struct attention *c, int stream, int first, int rows, int cell,
                          int cells, int *masked) {
    const uint16_t *mask = mask_of(c, stream, first);
    size_t step = c->mask_row / sizeof *mask;
    uint64_t seen = 0;
    *masked = cells < SPAN;
    for (int i = 0; i < cells; i += LANES) {
        halves unseen = ~(halves){0}, any = {0};
        for (int r = 0; r < rows; r++) {
            halves lanes = mask_lanes(mask == NULL ? NULL : mask + r * step + cell + i, cells - i);
            unseen &= (halves)(lanes == HIDDEN);
            any |= lanes;
        }
        seen |= (uint64_t)lanes_with(unseen, 0) << i;
        *masked |= lanes_with(any, 0) != ALL_LANES;
    }
    if (!*masked || seen == 0) return seen;
    float *to = (float *)t->mask;
    for (int r = 0; r < rows; r++) {
        for (int i = 0; i < cells; i++) {
            to[i * ROWS + r] = mask == NULL ? 0 : half_to_float(mask[r * step + cell + i]);
        }
    }
    for (int i = 0; i < SPAN; i++) {
        for (int r = i < cells ? rows : 0; r < ROWS; r++) to[i * ROWS + r] = -INFINITY;
    }
    return seen;
}

static void weigh(struct tile *t, int head, int width, float scale, int masked) {
    vec top[WIDTH], total[WIDTH];
    for (int w = 0; w < width; w++) top[w] = t->highest[w];
    for (int i = 0; i < SPAN; i++) {
        for (int w = 0; w < width; w++) {
            vec score = masked ? add_product(t->mask[i][w], t->weights[i][w], splat(scale))
                               : t->weights[i][w] * splat(scale);
            t->weights[i][w] = score;
            top[w] = larger(top[w], score);
        }
    }
    int changed = 0;
    for (int w = 0; w < width; w++) {
        ivec rose = top[w] > t->highest[w];
        for (int l = 0; l < LANES; l++) changed |= rose[l];
    }
    if (changed) {
        vec shrink[WIDTH];
        for (int w = 0; w < width; w++) {
            shrink[w] = exp_of(t->highest[w] - top[w]);
            t->weight[w] *= shrink[w];
            t->highest[w] = top[w];
        }
        for (int d = 0; d < head; d++) {
            for (int w = 0; w < width; w++) t->sum[d][w] *= shrink[w];
        }
    }
    for (int w = 0; w < width; w++) total[w] = t->weight[w];
    for (int i = 0; i < SPAN; i++) {
        for (int w = 0; w < width; w++) total[w] += t->weights[i][w] = exp_of(t->weights[i][w] - top[w]);
    }
    for (int w = 0; w < width; w++) t->weight[w] = total[w];
}

/* Up to ROWS rows of one head of one stream. */
static void prefill(struct tile *t, const struct attention *c, int stream, int head, int first, int rows) {
    int width = (rows + LANES - 1) / LANES, key_head = head / (c->heads / c->key_heads);
    memset(t->query, 0, c->head * sizeof t->query[0]);
    memset(t->sum, 0, c->head * sizeof t->sum[0]);
    for (int r = 0; r < rows; r++) {
        const float *query = (const float *)(c->q + (first + r) * c->q_row + head * c->q_head + stream * c->q_stream);
        for (int d = 0; d < c->head; d++) ((float *)t->query[d])[r] = query[d];
    }
    for (int w = 0; w < width; w++) {
        t->highest[w] = splat(LOWEST);
        t->weight[w] = (vec){0};
    }
    for (int cell = 0; cell < c->cells; cell += SPAN) {
        int cells = c->cells - cell < SPAN ? c->cells - cell : SPAN;
        int masked;
        uint64_t seen = read_mask(t, c, stream, first, rows, cell, cells, &masked);
        if (seen == 0) continue;
        widen(t, c->k + cell * c->k_cell + key_head * c->k_head + stream * c->k_stream, c->k_cell, seen, c->head);
        memset(t->weights, 0, sizeof t->weights);
        products(t->weights, SPAN, (const float *)t->cells, LARGEST_HEAD, 1, t->query, c->head, width);
        weigh(t, c->head, width, c->scale, masked);
        widen(t, c->v + cell * c->v_cell + key_head * c->v_head + stream * c->v_stream, c->v_cell, seen, c->head);
        products(t->sum, c->head, (const float *)t->cells, 1, LARGEST_HEAD, t->weights, SPAN, width);
    }
    for (int r = 0; r < rows; r++) {
        float *out = (float *)(c->out + (first + r) * c->out_row + head * c->out_head + stream * c->out_stream);
        float weight = ((float *)t->weight)[r], by = weight > 0 ? 1 / weight : 0;
        for (int d = 0; d < c->head; d++) out[d] = ((float *)t->sum[d])[r] * by + 0.0f;
    }
}

static void decode_group(const struct attention *c, int stream, int cells, int first, int count) {
    switch (c->head) { /* a number the compiler knows, so that a head's vectors stay in registers */
        case 64: decode(c, stream, cells, first, count, 64 / LANES); break;
        case 80: decode(c, stream, cells, first, count, 80 / LANES); break;
        case 96: decode(c, stream, cells, first, count, 96 / LANES); break;
        case 128: decode(c, stream, cells, first, count, 128 / LANES); break;
        default: decode(c, stream, cells, first, count, c->head / LANES);
    }
}

const char *attention_kernel(void) { return KERNEL; }

int attention_fits(int head) { return head > 0 && head % 16 == 0 && head <= LARGEST_HEAD; }

struct length {
    int stream, cells;
};

static int longer_first(const void *one, const void *other) {
    const struct length *a = one, *b = other;
    return a->cells != b->cells ? b->cells - a->cells : a->stream - b->stream;
}

/* The cells of each stream up to the last that its row sees, the longest stream first: so that no thread is left with
 * a long one when the others are done. */
static void read_lengths(const struct attention *c, struct length *to) {
    for (int s = 0; s < c->streams; s++) {
        const uint16_t *mask = mask_of(c, s, 0);
        int cells = c->cells;
        if (mask != NULL && cells % LANES == 0) {
            while (cells > 0 && lanes_with(load(mask + cells - LANES), HIDDEN) == ALL_LANES) cells -= LANES;
        }
        to[s] = (struct length){s, cells};
    }
    qsort(to, c->streams, sizeof *to, longer_first);
}

static void decode_all(const struct attention *c, int threads) {
    struct length lengths[MOST_STREAMS];
    read_lengths(c, lengths);
    int size = c->heads < MOST_HEADS ? c->heads : MOST_HEADS;
    while (size > 1 && c->streams * ((c->heads + size - 1) / size) < 2 * threads) size = (size + 1) / 2;
    int groups = (c->heads + size - 1) / size;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int item = 0; item < c->streams * groups; item++) {
        struct length *at = &lengths[item / groups];
        int first = item % groups * size, left = c->heads - first;
        decode_group(c, at->stream, at->cells, first, left < size ? left : size);
    }
}

static void prefill_all(const struct attention *c, int threads) {
    int parts = (c->rows + ROWS - 1) / ROWS, each = c->heads * parts;
#pragma omp parallel num_threads(threads)
    {
        static _Thread_local struct tile tile; /* 225 KiB: too much for a small stack, and taken once for a thread */
#pragma omp for schedule(dynamic)
        for (int item = 0; item < c->streams * each; item++) {
            int first = item % each % parts * ROWS, left = c->rows - first;
            prefill(&tile, c, item / each, item % each / parts, first, left < ROWS ? left : ROWS);
        }
    }
}

void attend(const struct attention *c, int threads) {
    if (c->rows == 1) decode_all(c, threads);
    else prefill_all(c, threads);
}

#endif
