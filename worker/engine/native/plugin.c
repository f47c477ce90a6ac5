/* attention.c as a device of ggml: an accelerator beside the processor that does one operation, attention in memory
 * of the processor, and leaves all others to it. ggml asks `supports_op` for each operation when it plans a graph, and
 * gives us those to which we say yes.
 *
 * The structures are ggml's interface for plug-ins, version 2, as far as a plug-in must fill them; ggml refuses a
 * plug-in of another version when it loads it.
 */

#include "attention.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"

enum { INTERFACE_VERSION = 2 };

typedef void (*unused)(void);

struct backend_calls {
    const char *(*get_name)(ggml_backend_t);
    void (*free)(ggml_backend_t);
    unused set_tensor_async, get_tensor_async, set_tensor_2d_async, get_tensor_2d_async, cpy_tensor_async;
    unused synchronize, plan_create, plan_free, plan_update, plan_compute;
    enum ggml_status (*graph_compute)(ggml_backend_t, struct ggml_cgraph *);
    unused event_record, event_wait, graph_optimize;
};

struct ggml_backend {
    ggml_guid_t guid;
    struct backend_calls calls;
    ggml_backend_dev_t device;
    void *context;
};

struct device_calls {
    const char *(*get_name)(ggml_backend_dev_t);
    const char *(*get_description)(ggml_backend_dev_t);
    void (*get_memory)(ggml_backend_dev_t, size_t *, size_t *);
    enum ggml_backend_dev_type (*get_type)(ggml_backend_dev_t);
    void (*get_props)(ggml_backend_dev_t, struct ggml_backend_dev_props *);
    ggml_backend_t (*init_backend)(ggml_backend_dev_t, const char *);
    ggml_backend_buffer_type_t (*get_buffer_type)(ggml_backend_dev_t);
    unused get_host_buffer_type;
    ggml_backend_buffer_t (*buffer_from_host_ptr)(ggml_backend_dev_t, void *, size_t, size_t);
    bool (*supports_op)(ggml_backend_dev_t, const struct ggml_tensor *);
    bool (*supports_buft)(ggml_backend_dev_t, ggml_backend_buffer_type_t);
    unused offload_op, event_new, event_free, event_synchronize;
};

struct ggml_backend_device {
    struct device_calls calls;
    ggml_backend_reg_t registry;
    void *context;
};

struct registry_calls {
    const char *(*get_name)(ggml_backend_reg_t);
    size_t (*get_device_count)(ggml_backend_reg_t);
    ggml_backend_dev_t (*get_device)(ggml_backend_reg_t, size_t);
    void *(*get_proc_address)(ggml_backend_reg_t, const char *);
};

struct ggml_backend_reg {
    int version;
    struct registry_calls calls;
    void *context;
};

static const char NAME[] = "penstock";
static const char BUILD[] = "attention/1 " PENSTOCK_LEVEL ", compiler " __VERSION__;
static atomic_int is_on = 1; /* one thread loads a model while another plans a step */
static atomic_int has_declined = 0;
static struct ggml_backend_device device;
static struct ggml_backend_reg registry;

static float float_param(const struct ggml_tensor *op, int number) {
    float value;
    memcpy(&value, &op->op_params[number], sizeof value);
    return value;
}

static struct attention as_call(const struct ggml_tensor *op) {
    const struct ggml_tensor *q = op->src[0], *k = op->src[1], *v = op->src[2], *mask = op->src[3];
    return (struct attention){
        .head = (int)q->ne[0], .rows = (int)q->ne[1], .heads = (int)q->ne[2], .streams = (int)q->ne[3],
        .cells = (int)k->ne[1], .key_heads = (int)k->ne[2],
        .q = q->data, .k = k->data, .v = v->data, .mask = mask != NULL ? mask->data : NULL, .out = op->data,
        .q_row = q->nb[1], .q_head = q->nb[2], .q_stream = q->nb[3],
        .k_cell = k->nb[1], .k_head = k->nb[2], .k_stream = k->nb[3],
        .v_cell = v->nb[1], .v_head = v->nb[2], .v_stream = v->nb[3],
        .mask_row = mask != NULL ? mask->nb[1] : 0,
        .mask_stream = mask != NULL ? mask->nb[3] : 0,
        .mask_streams = mask != NULL ? (int)mask->ne[3] : 1,
        .out_head = op->nb[1], .out_row = op->nb[2], .out_stream = op->nb[3],
        .scale = float_param(op, 0),
    };
}

static bool fits(const struct ggml_tensor *t, enum ggml_type type) {
    return t->type == type && t->nb[0] == ggml_type_size(type);
}

/* A row for each query, long enough, the same for all heads. */
static bool takes_mask(const struct ggml_tensor *mask, const struct ggml_tensor *q, const struct ggml_tensor *k) {
    return fits(mask, GGML_TYPE_F16) && mask->ne[0] >= k->ne[1] && mask->ne[1] >= q->ne[1] && mask->ne[2] == 1;
}

/* Attention as a plain model of today has it: half floats in the cache, no slopes, no cap, no sinks. */
static bool is_plain(const struct ggml_tensor *op) {
    const struct ggml_tensor *q = op->src[0], *k = op->src[1], *v = op->src[2], *mask = op->src[3];
    return fits(q, GGML_TYPE_F32) && fits(k, GGML_TYPE_F16) && fits(v, GGML_TYPE_F16) && fits(op, GGML_TYPE_F32) &&
           (mask == NULL || takes_mask(mask, q, k)) && op->src[4] == NULL && float_param(op, 1) == 0 &&
           float_param(op, 2) == 0 && attention_fits((int)q->ne[0]) && k->ne[0] == q->ne[0] && v->ne[0] == q->ne[0] &&
           v->ne[1] == k->ne[1] && v->ne[2] == k->ne[2] && k->ne[3] == q->ne[3] && v->ne[3] == q->ne[3] &&
           q->ne[2] % k->ne[2] == 0 && q->ne[3] <= MOST_STREAMS;
}

static bool supports(ggml_backend_dev_t dev, const struct ggml_tensor *op) {
    (void)dev;
    if (!is_on || op->op != GGML_OP_FLASH_ATTN_EXT) return false;
    if (is_plain(op)) return true;
    has_declined = 1;
    return false;
}

static enum ggml_status compute(ggml_backend_t backend, struct ggml_cgraph *graph) {
    int threads = *(int *)backend->context;
    for (int i = 0; i < ggml_graph_n_nodes(graph); i++) {
        const struct ggml_tensor *node = ggml_graph_node(graph, i);
        if (node->op == GGML_OP_FLASH_ATTN_EXT && (node->flags & GGML_TENSOR_FLAG_COMPUTE)) {
            struct attention call = as_call(node);
            attend(&call, threads);
        }
    }
    return GGML_STATUS_SUCCESS;
}

static const char *backend_name(ggml_backend_t backend) { (void)backend; return NAME; }

static void free_backend(ggml_backend_t backend) {
    free(backend->context);
    free(backend);
}

static const char *device_name(ggml_backend_dev_t dev) { (void)dev; return NAME; }
static const char *device_description(ggml_backend_dev_t dev) { (void)dev; return BUILD; }
static enum ggml_backend_dev_type device_type(ggml_backend_dev_t dev) {
    (void)dev;
    return GGML_BACKEND_DEVICE_TYPE_ACCEL;
}

static void device_memory(ggml_backend_dev_t dev, size_t *unused_bytes, size_t *all) {
    (void)dev;
    *unused_bytes = *all = 0;
}

static void device_props(ggml_backend_dev_t dev, struct ggml_backend_dev_props *props) {
    memset(props, 0, sizeof *props);
    props->name = device_name(dev);
    props->description = device_description(dev);
    props->type = device_type(dev);
    props->caps.buffer_from_host_ptr = true;
    props->caps.mmap_support = true;
}

static ggml_backend_t new_backend(ggml_backend_dev_t dev, const char *params) {
    static ggml_guid guid = {0x70, 0x65, 0x6e, 0x73, 0x74, 0x6f, 0x63, 0x6b, 0x61, 0x74, 0x74, 0x65, 0x6e, 0x64, 0, 1};
    (void)params;
    struct ggml_backend *backend = calloc(1, sizeof *backend);
    int *threads = malloc(sizeof *threads);
    if (backend == NULL || threads == NULL) {
        free(backend);
        free(threads);
        return NULL; /* llama.cpp makes an error of it */
    }
    *threads = 1;
    backend->guid = &guid;
    backend->calls.get_name = backend_name;
    backend->calls.free = free_backend;
    backend->calls.graph_compute = compute;
    backend->device = dev;
    backend->context = threads;
    return backend;
}

static ggml_backend_buffer_type_t buffer_type(ggml_backend_dev_t dev) { (void)dev; return ggml_backend_cpu_buffer_type(); }

static ggml_backend_buffer_t wrap(ggml_backend_dev_t dev, void *at, size_t size, size_t largest) {
    (void)dev, (void)largest;
    return ggml_backend_cpu_buffer_from_ptr(at, size);
}

static bool takes_buffer(ggml_backend_dev_t dev, ggml_backend_buffer_type_t type) {
    (void)dev;
    return ggml_backend_buft_is_host(type);
}

static const char *registry_name(ggml_backend_reg_t reg) { (void)reg; return NAME; }
static size_t device_count(ggml_backend_reg_t reg) { (void)reg; return 1; }
static ggml_backend_dev_t get_device(ggml_backend_reg_t reg, size_t number) { (void)reg, (void)number; return &device; }

static void set_threads(ggml_backend_t backend, int threads) { *(int *)backend->context = threads; }

static void *address_of(ggml_backend_reg_t reg, const char *name) {
    (void)reg;
    return strcmp(name, "ggml_backend_set_n_threads") == 0 ? (void *)set_threads : NULL;
}

#define SHARED __attribute__((visibility("default")))

/* Whether graphs planned from now on have this attention. */
SHARED void penstock_attention_switch(int on) {
    has_declined = 0;
    is_on = on;
}
SHARED int penstock_attention_is_on(void) { return is_on; }

/* Whether some attention of a graph planned since the switch was left to others. */
SHARED int penstock_attention_has_declined(void) { return has_declined; }
SHARED const char *penstock_attention_build(void) { return BUILD; }

/* Asked by feature, for not all compilers know the levels' names here. F16C, LZCNT and MOVBE, which some do not know
 * either, are on every processor that has AVX2 and BMI2. */
static int processor_fits(void) {
    __builtin_cpu_init();
#ifdef __AVX512F__
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512cd") || !__builtin_cpu_supports("avx512dq") ||
        !__builtin_cpu_supports("avx512vl")) {
        return 0;
    }
#endif
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("bmi2");
}

SHARED int ggml_backend_score(void) { return attention_kernel() != NULL && processor_fits(); }

SHARED ggml_backend_reg_t ggml_backend_init(void) {
    device = (struct ggml_backend_device){
        .calls = {.get_name = device_name, .get_description = device_description, .get_memory = device_memory,
                  .get_type = device_type, .get_props = device_props, .init_backend = new_backend,
                  .get_buffer_type = buffer_type, .buffer_from_host_ptr = wrap, .supports_op = supports,
                  .supports_buft = takes_buffer},
        .registry = &registry,
    };
    registry = (struct ggml_backend_reg){
        .version = INTERFACE_VERSION,
        .calls = {.get_name = registry_name, .get_device_count = device_count, .get_device = get_device,
                  .get_proc_address = address_of},
    };
    return &registry;
}
