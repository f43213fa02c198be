/* What random programs must have met, counted. */
#ifndef TSR_TESTS_ZERO_EAGER_COVER_H
#define TSR_TESTS_ZERO_EAGER_COVER_H

/* clang-format off */
#define COVERS_OF(X) \
    X(world_1) X(world_2) X(world_3) X(world_5) \
    X(stage_1) X(stage_2) X(stage_3) X(two_zeros) \
    X(inline_stream) X(queued_stream) X(outside_allocator) X(own_allocator) \
    X(average_after) X(average_before) X(average_none) \
    X(double_buffer) X(single_buffer) X(symmetric_memory) X(beyond_symmetric) X(host_sync) \
    X(gathered) X(valid_copy_bound) X(copy_of_two_graphs) \
    X(bound_anew) X(read) X(read_on_other_stream) X(read_behind) X(stale_read) \
    X(read_of_old_shape) X(cast) X(persistent_gather) X(prefetched_twice) \
    X(several_users) X(uneven) X(empty) X(granule) X(empty_shard) \
    X(reduced) X(grad_beyond_bucket) X(bucket_of_several) X(same_param_twice) \
    X(accumulated_over_micro_steps) X(kept_for_last_micro_step) \
    X(mixed_grad_dtypes) X(frozen_refused) X(grads_reused_after_wait) \
    X(grads_read_in_order) X(zeroed_unreduced) X(aborted) \
    X(aborted_with_waiting) X(profiled_reduce) X(profiled_release) \
    X(slot_taken) X(slot_taken_twice) X(slot_reused) X(slot_beyond_bucket) \
    X(slot_none) X(slot_made_in_place) X(slot_made_in_place_on_other_stream) \
    X(slot_scaled_in_place) X(slot_with_kept_sum) X(slot_copied_into) \
    X(slot_dropped) X(slot_holds_up_flush) X(slot_holds_up_end) \
    X(full_bucket_left) X(full_bucket_waits_for_slot) X(handle_waited) \
    X(handle_released) X(handle_of_nothing) \
    X(weights_written_in_order) X(weights_written_after_sync) \
    X(shard_moved) X(grad_moved) X(grad_moved_while_waiting) \
    X(registered_anew) X(registered_anew_in_other_shape) \
    X(register_refused) X(graph_registered_anew_while_bound) \
    X(reset_while_bound) \
    X(tensor_offloaded) X(tensor_replaced) X(tensor_replaced_in_other_size) \
    X(tensor_offloaded_again_from_reload) X(tensor_reused_after_wait) \
    X(tensor_reloaded) X(tensor_reloaded_twice) X(tensor_read) \
    X(tensor_never_reloaded) X(tensor_freed) X(foreign_freed) \
    X(free_while_profiling) X(tensors_dropped_with_graph) X(host_full) \
    X(shard_offloaded) X(shard_offloaded_unchanged) X(shard_reloaded) \
    X(shard_kept_copy_dropped) X(shard_vacated) X(gather_refused_on_host) \
    X(valid_copy_while_on_host) X(write_refused_on_host) \
    X(register_refused_on_host) X(not_found) X(not_gathered) X(bad_users)
/* clang-format on */
typedef enum cover_kind {
#define COVER(name) COVER_##name,
    COVERS_OF(COVER)
#undef COVER
        COVERS
} cover_kind;

static const char *const cover_names[] = {
#define COVER(name) #name,
    COVERS_OF(COVER)
#undef COVER
};

#endif
