/* Choosing a token from one row of logits: bias, repeat penalty, top_k, top_p, min_p, temperature, one draw.
 *
 * The same numbers give the same token wherever they lie, on every processor there is a build for: weights are those of
 * exp_of(), sums are taken in an order that does not depend on how wide a vector is, and from 128 weights on in doubles.
 *
 * Nothing is sorted but what decides. All three truncations leave the first so many tokens of one order, the likeliest
 * first and of equals the lower id; so what is left is told by its last one (`struct last`), and that is found by counting
 * into bins, then into finer ones within the bin that holds it. The draw itself needs no order: it goes by id.
 */

#include "draw.h"

#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>

#include "vectors.h"

#ifndef KERNEL

size_t penstock_draw_room(const struct draw *knobs, int size) { (void)knobs; (void)size; return 0; }
int penstock_draw(const struct draw *knobs, float *logits, int size, double uniform, void *room) {
    (void)knobs; (void)logits; (void)size; (void)uniform; (void)room;
    return 0;
}

#else

/* SPAN: weights that are summed before a double is. FEW: tokens that are sorted rather than put into bins again.
 * WIDEST: lanes of a sum, whatever the vectors. */
enum { SPAN = 128, BINS = 512, FEW = 48, WIDEST = 16 };

/* The last token that is left, in the order of likelihood: all with a higher logit are, and of those with the same one
 * all up to its id. */
struct last {
    float logit;
    int id;
};

struct candidate {
    float logit;
    int id;
    double mass;
};

struct row {
    const float *logits;
    int size;
    float highest;
};

INLINE int spans_of(int size) { return (size + SPAN - 1) / SPAN; }

INLINE vec load(const float *at) { return *(const loose_vec *)at; }

INLINE ivec places(int from) {
    ivec place;
    for (int l = 0; l < LANES; l++) place[l] = from + l;
    return place;
}

/* Which of the logits of the tokens from `from` on are left. */
INLINE ivec left_of(vec logits, int from, struct last last) {
    return (logits > splat(last.logit)) | ((logits == splat(last.logit)) & (places(from) <= last.id));
}

/* The logits of the SPAN tokens from `from` on; minus infinity where there are none. `end`: room for the last ones. */
INLINE const float *span_at(const struct row *row, int from, float *end) {
    if (row->size - from >= SPAN) return row->logits + from;
    for (int i = 0; i < SPAN; i++) end[i] = from + i < row->size ? row->logits[from + i] : -INFINITY;
    return end;
}

/* -- bias and penalty, on the logits themselves; what was there is put back */

INLINE int is_token(int64_t id, int size) { return id >= 0 && id < size; }

static void adjust(const struct draw *d, float *logits, int size, float *saved) {
    for (int i = 0; i < d->num_bias; i++) {
        if (!is_token(d->bias_ids[i], size)) continue;
        saved[i] = logits[d->bias_ids[i]];
        logits[d->bias_ids[i]] = saved[i] + d->bias[i];
    }
    saved += d->num_bias;
    if (d->penalty == 1) return;
    for (int i = 0; i < d->num_recent; i++) {
        if (is_token(d->recent[i], size)) saved[i] = logits[d->recent[i]];
    }
    for (int i = 0; i < d->num_recent; i++) {
        if (!is_token(d->recent[i], size)) continue;
        float times = saved[i] * d->penalty, by = saved[i] / d->penalty;
        /* llama.cpp's: times below 0, by above it */
        logits[d->recent[i]] = (d->penalty > 1) == (times < by) ? times : by;
    }
}

static void restore(const struct draw *d, float *logits, int size, const float *saved) {
    for (int i = d->penalty == 1 ? 0 : d->num_recent; i-- > 0;) {
        if (is_token(d->recent[i], size)) logits[d->recent[i]] = saved[d->num_bias + i];
    }
    for (int i = d->num_bias; i-- > 0;) {
        if (is_token(d->bias_ids[i], size)) logits[d->bias_ids[i]] = saved[i];
    }
}

/* -- weights */

static float highest_of(const float *logits, int count) {
    vec most[4];
    for (int i = 0; i < 4; i++) most[i] = splat(-INFINITY);
    int at = 0;
    for (; at + 4 * LANES <= count; at += 4 * LANES) {
        for (int i = 0; i < 4; i++) most[i] = larger(load(logits + at + i * LANES), most[i]);
    }
    float highest = largest(larger(larger(most[0], most[1]), larger(most[2], most[3])));
    for (; at < count; at++) highest = logits[at] > highest ? logits[at] : highest;
    return highest;
}

static int first_with(const float *logits, int size, float value) {
    int at = 0;
    while (at + LANES <= size && !some_of(load(logits + at) == splat(value))) at += LANES;
    while (at < size && logits[at] != value) at++;
    return at < size ? at : 0;
}

/* The weights of the SPAN tokens from `from` on; 0 for those that are not left, or not there. */
INLINE void weigh(const struct row *row, int from, float by_temperature, const struct last *last, float *to) {
    float end[SPAN];
    const float *logits = span_at(row, from, end);
    for (int i = 0; i < SPAN; i += LANES) {
        vec logit = load(logits + i);
        vec weight = exp_of((logit - splat(row->highest)) * splat(by_temperature));
        if (last != NULL) weight = (vec)((ivec)weight & left_of(logit, from + i, *last));
        *(loose_vec *)(to + i) = weight;
    }
}

/* In an order that is the same for all widths of vectors. */
INLINE double sum_of_span(const float *weights) {
    float lanes[WIDEST] = {0};
    for (int i = 0; i < SPAN; i += WIDEST) {
        for (int l = 0; l < WIDEST; l++) lanes[l] += weights[i + l];
    }
    for (int half = WIDEST / 2; half > 0; half /= 2) {
        for (int l = 0; l < half; l++) lanes[l] += lanes[l + half];
    }
    return lanes[0];
}

/* -- truncation */

static int by_likelihood(const void *one, const void *other) {
    const struct candidate *a = one, *b = other;
    return a->logit != b->logit ? (a->logit < b->logit ? 1 : -1) : a->id - b->id;
}

/* Which of BINS each logit falls into: the higher, the earlier. No number falls into the last. */
INLINE ivec bins_of(vec logits, float highest, float scale) {
    vec bin = larger(smaller((splat(highest) - logits) * splat(scale), splat(BINS - 1)), splat(0));
    return __builtin_convertvector(bin, ivec);
}

INLINE void bins_of_span(const float *logits, float highest, float scale, int32_t *to) {
    for (int i = 0; i < SPAN; i += LANES) *(loose_ivec *)(to + i) = bins_of(load(logits + i), highest, scale);
}

INLINE int bin_of(float logit, float highest, float scale) { return bins_of(splat(logit), highest, scale)[0]; }

/* So that `lowest` falls into the last bin; 0 where all are equal, or as good as that. */
INLINE float scale_of(float highest, float lowest) {
    float scale = (BINS - 1) / (highest - lowest);
    return scale < FLT_MAX ? scale : 0;
}

/* The first bin with which the running sum, from *before on, reaches `goal`; BINS if none does. *before: the sum ahead
 * of it. */
static int reaching(const double *bins, double goal, double *before) {
    for (int b = 0; b < BINS; b++) {
        if (*before + bins[b] >= goal) return b;
        *before += bins[b];
    }
    return BINS;
}

/* Among candidates, by id: the one with which the running sum, from `before` on, reaches `goal`. */
static struct last reaches(struct candidate *from, int count, double before, double goal) {
    while (count > FEW) {
        float highest = from[0].logit, lowest = from[0].logit;
        for (int i = 1; i < count; i++) {
            highest = from[i].logit > highest ? from[i].logit : highest;
            lowest = from[i].logit < lowest ? from[i].logit : lowest;
        }
        float scale = scale_of(highest, lowest);
        if (scale == 0) break;
        double bins[BINS] = {0};
        for (int i = 0; i < count; i++) bins[bin_of(from[i].logit, highest, scale)] += from[i].mass;
        int bin = reaching(bins, goal, &before), kept = 0;
        for (int i = 0; i < count && bin < BINS; i++) {
            if (bin_of(from[i].logit, highest, scale) == bin) from[kept++] = from[i];
        }
        if (bin == BINS || kept == count) break;
        count = kept;
    }
    qsort(from, count, sizeof *from, by_likelihood);
    for (int i = 0; i < count - 1; i++) {
        before += from[i].mass;
        if (before >= goal) return (struct last){from[i].logit, from[i].id};
    }
    return (struct last){from[count - 1].logit, from[count - 1].id};
}

/* Add what is left of the SPAN tokens from `from` on, whose logits, and bins if `bin` is not negative, are these: those
 * of that bin, or all. */
INLINE int gather(const float *logits, const float *mass, int from, struct last last, const int32_t *bins, int bin,
                  struct candidate *to) {
    int count = 0;
    for (int i = 0; i < SPAN; i += LANES) {
        ivec left = left_of(load(logits + i), from + i, last);
        if (bin >= 0) left &= *(const loose_ivec *)(bins + i) == bin;
        if (!some_of(left)) continue;
        for (int l = 0; l < LANES; l++) {
            if (left[l]) to[count++] = (struct candidate){logits[i + l], from + i + l, mass == NULL ? 1 : mass[i + l]};
        }
    }
    return count;
}

/* The first `count` of those that are left. */
static struct last first_of(const struct row *row, struct last last, int count, struct candidate *room) {
    int spans = spans_of(row->size), found = 0;
    float end[SPAN];
    if (count <= spans) { /* so many spans have one that is as high as the `count`th of their highest: so have all */
        for (int s = 0; s < spans; s++) {
            room[s] = (struct candidate){highest_of(span_at(row, s * SPAN, end), SPAN), s, 1};
        }
        float enough = reaches(room, spans, 0, count).logit;
        if (enough > last.logit) last = (struct last){enough, INT_MAX};
    }
    for (int from = 0; from < row->size; from += SPAN) {
        found += gather(span_at(row, from, end), NULL, from, last, NULL, -1, room + found);
    }
    return found > count ? reaches(room, found, 0, count) : last;
}

/* The fewest of those that are left that hold `part` of their weight. */
static struct last nucleus_of(const struct row *row, struct last last, double part, struct candidate *room) {
    float end[SPAN], mass[SPAN];
    int32_t place[SPAN];
    vec least = splat(row->highest);
    for (int from = 0; from < row->size; from += SPAN) {
        const float *logits = span_at(row, from, end);
        for (int i = 0; i < SPAN; i += LANES) {
            vec logit = load(logits + i);
            ivec left = left_of(logit, from + i, last);
            least = smaller((vec)(((ivec)logit & left) | ((ivec)splat(row->highest) & ~left)), least);
        }
    }
    float scale = scale_of(row->highest, -largest(-least));
    double bins[2][BINS] = {{0}}, all = 0, before = 0; /* two, so that one need not wait for the other */
    for (int from = 0; from < row->size; from += SPAN) {
        bins_of_span(span_at(row, from, end), row->highest, scale, place);
        weigh(row, from, 1, &last, mass);
        for (int i = 0; i < SPAN; i++) bins[i % 2][place[i]] += mass[i];
    }
    for (int b = 0; b < BINS; b++) all += bins[0][b] += bins[1][b];
    int bin = reaching(bins[0], part * all, &before), found = 0;
    if (bin == BINS) return last;
    for (int from = 0; from < row->size; from += SPAN) {
        const float *logits = span_at(row, from, end);
        bins_of_span(logits, row->highest, scale, place);
        int some = 0;
        for (int i = 0; i < SPAN; i++) some |= place[i] == bin;
        if (!some) continue;
        weigh(row, from, 1, &last, mass);
        found += gather(logits, mass, from, last, place, bin, room + found);
    }
    return found > 0 ? reaches(room, found, before, part * all) : last;
}

/* The same where few are left. */
static struct last nucleus_of_few(const struct row *row, struct last last, double part, struct candidate *room) {
    float end[SPAN], mass[SPAN];
    double all = 0;
    int found = 0;
    for (int from = 0; from < row->size; from += SPAN) {
        weigh(row, from, 1, &last, mass);
        found += gather(span_at(row, from, end), mass, from, last, NULL, -1, room + found);
    }
    for (int i = 0; i < found; i++) all += room[i].mass;
    return found > 0 ? reaches(room, found, 0, part * all) : last;
}

static struct last truncate_row(const struct draw *d, const struct row *row, void *room) {
    struct last last = {-FLT_MAX, INT_MAX};
    if (d->top_k > 0 && d->top_k < row->size) last = first_of(row, last, d->top_k, room);
    if (d->top_p > 0 && d->top_p < 1) {
        last = d->top_k > 0 && d->top_k < row->size ? nucleus_of_few(row, last, d->top_p, room)
                                                    : nucleus_of(row, last, d->top_p, room);
    }
    float least = row->highest + d->least;
    if (d->least <= 0 && least > last.logit) last = (struct last){least, INT_MAX};
    return last;
}

/* -- the draw */

static int draw(const struct row *row, float by_temperature, const struct last *last, double uniform, double *sums) {
    int spans = spans_of(row->size);
    double all = 0;
    float weights[SPAN];
    for (int s = 0; s < spans; s++) {
        weigh(row, s * SPAN, by_temperature, last, weights);
        all += sums[s] = sum_of_span(weights);
    }
    double target = uniform * all, running = 0, before = 0;
    int span = -1, token = 0;
    for (int s = 0; s < spans; s++) {
        if (sums[s] > 0) span = s, before = running;
        running += sums[s];
        if (running > target) break;
    } /* should rounding lead past the end: the last that has any weight */
    if (span < 0) return first_with(row->logits, row->size, row->highest); /* these are no numbers */
    weigh(row, span * SPAN, by_temperature, last, weights);
    for (int i = 0; i < SPAN && before <= target; i++) {
        if (weights[i] > 0) token = span * SPAN + i;
        before += weights[i];
    }
    return token;
}

static size_t larger_of(size_t a, size_t b) { return a > b ? a : b; }

size_t penstock_draw_room(const struct draw *d, int size) {
    size_t saved = ((size_t)d->num_bias + d->num_recent + 1) / 2 * 2 * sizeof(float);
    return saved + larger_of(spans_of(size) * sizeof(double), d->top_k || d->top_p ? size * sizeof(struct candidate) : 0);
}

int penstock_draw(const struct draw *d, float *logits, int size, double uniform, void *room) {
    float *saved = room;
    void *rest = saved + ((size_t)d->num_bias + d->num_recent + 1) / 2 * 2;
    adjust(d, logits, size, saved);
    struct row row = {logits, size, highest_of(logits, size)};
    int token;
    if (d->by_temperature == 0) {
        token = first_with(logits, size, row.highest);
    } else if (d->top_k > 0 || d->top_p > 0 || d->least <= 0) {
        struct last last = truncate_row(d, &row, rest);
        token = draw(&row, d->by_temperature, &last, uniform, rest);
    } else {
        token = draw(&row, d->by_temperature, NULL, uniform, rest);
    }
    restore(d, logits, size, saved);
    return token;
}

#endif
