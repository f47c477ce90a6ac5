/* Choosing a token from a row of logits: see draw.c. Knows no model. */
#ifndef PENSTOCK_DRAW_H
#define PENSTOCK_DRAW_H

#include <stddef.h>
#include <stdint.h>

#define SHARED __attribute__((visibility("default")))

/* The knobs of one sequence. `by_temperature`: 1 / temperature; 0 for the likeliest token, always. `least`: the logarithm
 * of min_p, a positive number for none. `top_k` and `top_p` are 0 for none, `penalty` 1. Recent ids may repeat. */
struct draw {
    double top_p;
    float by_temperature, least, penalty;
    int top_k, num_bias, num_recent;
    const int64_t *bias_ids, *recent;
    const float *bias;
};

/* The token at which the running sum of the weights passes `uniform` (0 <= it < 1) of the whole. `logits` are as they
 * were when it returns. `room`: at least penstock_draw_room() bytes that nobody else uses meanwhile, aligned to 8. */
SHARED int penstock_draw(const struct draw *knobs, float *logits, int size, double uniform, void *room);

/* Bytes that a draw from so many logits needs. */
SHARED size_t penstock_draw_room(const struct draw *knobs, int size);

#endif
