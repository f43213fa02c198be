/* Last stage, last part: bytes that change hands. No two values that are alive
 * together overlap; bytes get a new owner only after everybody who touched the
 * old one is done.
 *
 * Extents claim their bytes in the order of their makers; each is checked
 * against those that own its bytes then. That is enough: an owner before the
 * owner was checked when it lost the bytes, and order is transitive. */
#include "graph/verify.h"

/* Bytes that a node or a value holds in a space. */
typedef struct extent {
    tsr_value_id value; /* none: a workspace */
    tsr_node_id maker;  /* first to write it */
    tsr_space space;
    size_t offset, bytes;
    int32_t touched[TSR_STREAM_CLASSES]; /* latest node of each stream that
                                            reads or writes it; -1 */
} extent;

/* Bytes [first, end) and the extent that claimed them last. */
typedef struct claim {
    size_t first, end;
    int32_t owner;
} claim;

typedef TSR_ARRAY(claim) claim_array; /* disjoint, in the order of bytes */

typedef struct checker {
    const tsr_plan *plan;
    const tsr_graph *graph;
    tsr_order order;
    TSR_ARRAY(extent)
    extents;            /* of the section in hand, in the order of makers */
    int32_t *extent_of; /* (values) or -1 */
    claim_array claims[TSR_SPACE_COUNT];
} checker;

/* ---- extents ---- */

static tsr_status add_extent(checker *self, const extent *made) {
    TSR_TRY(TSR_ARRAY_RESERVE(&self->extents, 1));
    TSR_ARRAY_PUSH(&self->extents, *made);
    extent *kept = &self->extents.data[self->extents.count - 1];
    for (int s = 0; s < TSR_STREAM_CLASSES; s++)
        kept->touched[s] = -1;
    kept->touched[self->graph->nodes.data[made->maker.index].stream] =
        made->maker.index;
    return TSR_OK;
}

static bool is_transient(tsr_space space) {
    return space == TSR_SPACE_TRANSIENT || space == TSR_SPACE_GRADS ||
           space == TSR_SPACE_HOST_TRANSIENT;
}

static tsr_status collect(checker *self, int32_t first, int32_t end) {
    const tsr_graph *graph = self->graph;
    self->extents.count = 0;
    for (int32_t n = first; n < end; n++) {
        const tsr_node *node = &graph->nodes.data[n];
        for (int32_t i = 0; i < node->inputs.count; i++) {
            int32_t at =
                self->extent_of[tsr_graph_inputs(graph, node)[i].index];
            if (at >= 0)
                self->extents.data[at].touched[node->stream] = n;
        }
        for (int32_t i = 0; i < node->outputs.count; i++) {
            tsr_value_id id = tsr_graph_outputs(graph, node)[i];
            const tsr_value *value = tsr_graph_value(graph, id);
            if (!is_transient(value->space))
                continue;
            self->extent_of[id.index] = (int32_t)self->extents.count;
            TSR_TRY(add_extent(self, &(extent){.value = id,
                                               .maker = {n},
                                               .space = value->space,
                                               .offset = value->offset,
                                               .bytes = tsr_bytes_in_space(
                                                   self->plan, value)}));
        }
        if (node->workspace_bytes > 0)
            TSR_TRY(
                add_extent(self, &(extent){.value = TSR_NO_VALUE,
                                           .maker = {n},
                                           .space = TSR_SPACE_TRANSIENT,
                                           .offset = node->workspace_offset,
                                           .bytes = node->workspace_bytes}));
    }
    return TSR_OK;
}

/* ---- owners of bytes ---- */

/* Whether `later` may lie on `earlier` although its maker reads it: the op's
 * row says so, the place is the same, and it is read as that input alone. */
static bool takes_over(const checker *self, const extent *earlier,
                       const extent *later) {
    const tsr_graph *graph = self->graph;
    if (!tsr_has_value(later->value) || !tsr_has_value(earlier->value) ||
        later->offset != earlier->offset || later->bytes != earlier->bytes)
        return false;
    const tsr_node *node = tsr_graph_node_at(graph, later->maker);
    int uses = 0;
    for (int32_t i = 0; i < node->inputs.count; i++)
        uses += tsr_graph_inputs(graph, node)[i].index == earlier->value.index;
    if (uses > 1)
        return false;
    for (int32_t i = 0; i < node->outputs.count; i++)
        if (tsr_graph_outputs(graph, node)[i].index == later->value.index)
            return tsr_graph_must_alias(graph, node, i).index ==
                       earlier->value.index ||
                   tsr_graph_may_alias(graph, node, i).index ==
                       earlier->value.index;
    return false;
}

static tsr_status check_pair(const checker *self, const extent *earlier,
                             const extent *later) {
    bool in_place = takes_over(self, earlier, later);
    for (int s = 0; s < TSR_STREAM_CLASSES; s++) {
        tsr_node_id toucher = {earlier->touched[s]};
        char label[TSR_LABEL_BYTES], owner[TSR_LABEL_BYTES] = "a workspace";
        if (toucher.index < 0 ||
            (in_place && toucher.index == later->maker.index))
            continue;
        if (toucher.index != later->maker.index &&
            tsr_order_before(&self->order, toucher, later->maker))
            continue;
        if (tsr_has_value(earlier->value))
            tsr_graph_value_label(self->graph, earlier->value, owner);
        tsr_graph_node_label(self->graph, toucher, label);
        if (toucher.index >= later->maker.index)
            return tsr_violation(self->plan, "two live values on one byte",
                                 later->maker, later->value,
                                 "its bytes belong to %s, which %s still uses",
                                 owner, label);
        return tsr_violation(
            self->plan, "reused without wait", later->maker, later->value,
            "its bytes were those of %s; nothing orders it after %s on the %s "
            "stream",
            owner, label, tsr_stream_class_name((tsr_stream_class)s));
    }
    return TSR_OK;
}

/* Puts `count` claims in the place of those in [first, last). */
static tsr_status splice(claim_array *claims, size_t first, size_t last,
                         const claim *with, size_t count) {
    TSR_TRY(TSR_ARRAY_RESERVE(claims, count));
    memmove(claims->data + first + count, claims->data + last,
            (claims->count - last) * sizeof *claims->data);
    memcpy(claims->data + first, with, count * sizeof *with);
    claims->count = claims->count - (last - first) + count;
    return TSR_OK;
}

static tsr_status claim_bytes(checker *self, int32_t index) {
    const extent *made = &self->extents.data[index];
    claim_array *claims = &self->claims[made->space];
    claim mine = {made->offset, made->offset + made->bytes, index}, with[3];
    size_t first = 0, last, end = claims->count, count = 0;
    while (first < end) { /* the first claim that ends past `mine.first` */
        size_t middle = first + (end - first) / 2;
        if (claims->data[middle].end > mine.first)
            end = middle;
        else
            first = middle + 1;
    }
    for (last = first;
         last < claims->count && claims->data[last].first < mine.end; last++)
        TSR_TRY(check_pair(self, &self->extents.data[claims->data[last].owner],
                           made));
    if (first < last && claims->data[first].first < mine.first) {
        with[count] = claims->data[first];
        with[count++].end = mine.first;
    }
    with[count++] = mine;
    if (first < last && claims->data[last - 1].end > mine.end) {
        with[count] = claims->data[last - 1];
        with[count++].first = mine.end;
    }
    return splice(claims, first, last, with, count);
}

static tsr_status check_section(checker *self, int32_t first, int32_t end) {
    TSR_TRY(collect(self, first, end));
    for (int s = 0; s < TSR_SPACE_COUNT; s++)
        self->claims[s].count = 0;
    for (size_t i = 0; i < self->extents.count; i++)
        TSR_TRY(claim_bytes(self, (int32_t)i));
    return TSR_OK;
}

tsr_status tsr_verify_reuse(const tsr_plan *plan) {
    tsr_status status = TSR_OK;
    const tsr_graph *graph = plan->graph;
    checker self = {.plan = plan, .graph = graph};
    int32_t node_count = (int32_t)graph->nodes.count;

    TSR_TRY_GOTO(tsr_order_of(graph, &self.order));
    TSR_TRY_GOTO(tsr_alloc(graph->values.count, sizeof *self.extent_of,
                           (void **)&self.extent_of));
    for (size_t v = 0; v < graph->values.count; v++)
        self.extent_of[v] = -1;
    for (int32_t first = 0, end; first < node_count; first = end) {
        for (end = first;
             end < node_count && graph->nodes.data[end].section ==
                                     graph->nodes.data[first].section;)
            end++;
        TSR_TRY_GOTO(check_section(&self, first, end));
    }
done:
    for (int s = 0; s < TSR_SPACE_COUNT; s++)
        TSR_ARRAY_FREE(&self.claims[s]);
    TSR_ARRAY_FREE(&self.extents);
    tsr_free(self.extent_of);
    tsr_order_release(&self.order);
    return status;
}
