/* Attention over the KV cells of several streams: see attention.c. Knows no ggml. */
#ifndef PENSTOCK_ATTENTION_H
#define PENSTOCK_ATTENTION_H

#include <stddef.h>
#include <stdint.h>

enum { LARGEST_HEAD = 256, MOST_STREAMS = 1024 };

/* One call. Strides are in bytes. Queries are float, keys and values half floats, a head's numbers side by side.
 * The mask holds half floats, 0 or minus infinity (or what is to be added), a row for each query that all heads
 * share, for one stream or several in turn; it may be NULL. At most MOST_STREAMS
 * streams. */
struct attention {
    int head, rows, cells, heads, key_heads, streams;
    const char *q, *k, *v, *mask;
    char *out;
    size_t q_row, q_head, q_stream;
    size_t k_cell, k_head, k_stream;
    size_t v_cell, v_head, v_stream;
    size_t mask_row, mask_stream;
    int mask_streams;
    size_t out_head, out_row, out_stream;
    float scale;
};

/* Whether attend() can do a head of so many numbers. */
int attention_fits(int head);

/* Compute all of it with so many threads. */
void attend(const struct attention *call, int threads);

/* The instructions it was built for; NULL where there are none that it can use. */
const char *attention_kernel(void);

#endif
