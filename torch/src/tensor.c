#include "tensor.h"

#define MOST_DIMS 16

tsr_status dc_tensor_kind(dc_tensor tensor, dc_view *out_view) {
    DC_TRY(aoti_torch_get_dtype(tensor, &out_view->dtype));
    DC_TRY(aoti_torch_get_device_type(tensor, &out_view->device_type));
    DC_TRY(aoti_torch_get_device_index(tensor, &out_view->device_index));
    return TSR_OK;
}

tsr_status dc_tensor_view(dc_tensor tensor, dc_view *out_view) {
    int64_t *sizes, *strides;
    TSR_TRY(dc_tensor_kind(tensor, out_view));
    DC_TRY(aoti_torch_get_numel(tensor, &out_view->numel));
    DC_TRY(aoti_torch_get_dim(tensor, &out_view->dims));
    DC_TRY(aoti_torch_get_sizes(tensor, &sizes));
    DC_TRY(aoti_torch_get_strides(tensor, &strides));
    DC_TRY(aoti_torch_is_contiguous(tensor, &out_view->contiguous));
    out_view->sizes = sizes;
    out_view->strides = strides;
    return TSR_OK;
}

tsr_status dc_tensor_data(dc_tensor tensor, void **out_data) {
    DC_TRY(aoti_torch_get_data_ptr(tensor, out_data));
    return TSR_OK;
}

tsr_status dc_tensor_check_memory(dc_tensor tensor, const dc_view *view) {
    const dc_shim *torch = dc_torch();
    int64_t stored, last;
    if (view->numel == 0)
        return TSR_OK;
    DC_TRY(aoti_torch_get_storage_size(tensor, &stored));
    DC_TRY(aoti_torch_get_storage_offset(tensor, &last));
    for (int64_t d = 0; d < view->dims; d++)
        last += (view->sizes[d] - 1) * view->strides[d];
    int64_t size = (int64_t)torch->aoti_torch_dtype_element_size(view->dtype);
    if (last < stored / size)
        return TSR_OK;
    return tsr_error(TSR_FAILED_PRECONDITION,
                     "a tensor of %lld elements whose storage holds %lld "
                     "bytes: was it freed?",
                     (long long)view->numel, (long long)stored);
}

void dc_tensor_release(dc_tensor tensor) {
    if (tensor)
        (void)dc_torch()->aoti_torch_delete_tensor_object(tensor);
}

tsr_status dc_tensor_share(dc_tensor tensor, dc_tensor *out_tensor) {
    DC_TRY(aoti_torch_new_tensor_handle(tensor, out_tensor));
    return TSR_OK;
}

tsr_status dc_dtype_from_torch(int32_t torch_dtype, tsr_dtype *out_dtype) {
    const dc_shim *torch = dc_torch();
    if (torch_dtype == torch->aoti_torch_dtype_float32())
        *out_dtype = TSR_F32;
    else if (torch_dtype == torch->aoti_torch_dtype_bfloat16())
        *out_dtype = TSR_BF16;
    else if (torch_dtype == torch->aoti_torch_dtype_float16())
        *out_dtype = TSR_F16;
    else
        return tsr_error(TSR_UNSUPPORTED,
                         "torch's dtype number %d: parameters and gradients "
                         "must be float32, bfloat16 or float16",
                         (int)torch_dtype);
    return TSR_OK;
}

int32_t dc_dtype_to_torch(tsr_dtype dtype) {
    const dc_shim *torch = dc_torch();
    return dtype == TSR_F32    ? torch->aoti_torch_dtype_float32()
           : dtype == TSR_BF16 ? torch->aoti_torch_dtype_bfloat16()
                               : torch->aoti_torch_dtype_float16();
}

static tsr_status dense_strides(int64_t dims, const int64_t *sizes,
                                int64_t strides[MOST_DIMS]) {
    int64_t step = 1;
    if (dims > MOST_DIMS)
        return tsr_error(TSR_UNSUPPORTED, "a tensor of %lld dimensions",
                         (long long)dims);
    for (int64_t d = dims - 1; d >= 0; d--) {
        strides[d] = step;
        step *= sizes[d] > 0 ? sizes[d] : 1;
    }
    return TSR_OK;
}

tsr_status dc_tensor_empty(const dc_view *like, int64_t dims,
                           const int64_t *sizes, int32_t torch_dtype,
                           dc_tensor *out_tensor) {
    int64_t strides[MOST_DIMS];
    TSR_TRY(dense_strides(dims, sizes, strides));
    DC_TRY(aoti_torch_empty_strided(dims, sizes, strides, torch_dtype,
                                    like->device_type, like->device_index,
                                    out_tensor));
    return TSR_OK;
}

tsr_status dc_tensor_copy(dc_tensor tensor, int32_t torch_dtype,
                          dc_tensor *out_tensor) {
    dc_view view;
    dc_tensor made = NULL;
    TSR_TRY(dc_tensor_view(tensor, &view));
    TSR_TRY(dc_tensor_empty(&view, view.dims, view.sizes, torch_dtype, &made));
    if (dc_torch()->aoti_torch_copy_(made, tensor, 0) != 0) {
        tsr_status status = dc_torch_failed("copy_");
        dc_tensor_release(made);
        return status;
    }
    *out_tensor = made;
    return TSR_OK;
}

tsr_status dc_tensor_shaped(dc_tensor flat, int64_t dims, const int64_t *sizes,
                            dc_tensor *out_tensor) {
    int64_t strides[MOST_DIMS];
    TSR_TRY(dense_strides(dims, sizes, strides));
    DC_TRY(aoti_torch__reinterpret_tensor(flat, dims, sizes, strides, 0,
                                          out_tensor));
    return TSR_OK;
}

bool dc_view_dense(const dc_view *view) {
    int64_t step = 1;
    while (step < view->numel) {
        int64_t d = 0;
        while (d < view->dims &&
               (view->sizes[d] < 2 || view->strides[d] != step))
            d++;
        if (d == view->dims)
            return false;
        step *= view->sizes[d];
    }
    return true;
}

tsr_status dc_tensor_laid_out(dc_tensor flat, const dc_view *like,
                              dc_tensor *out_tensor) {
    DC_TRY(aoti_torch__reinterpret_tensor(flat, like->dims, like->sizes,
                                          like->strides, 0, out_tensor));
    return TSR_OK;
}

/* Calls an op of one tensor and one number: both are consumed, the result is
 * the caller's. */
static tsr_status call_op(const char *op, const char *overload,
                          dc_tensor tensor, dc_value number,
                          dc_tensor *out_tensor) {
    dc_tensor mine = NULL;
    TSR_TRY(dc_tensor_share(tensor, &mine));
    dc_value stack[] = {(dc_value)(uintptr_t)mine, number};
    if (dc_torch()->torch_call_dispatcher(op, overload, stack,
                                          dc_torch()->version) != 0)
        return dc_torch_failed(op);
    if (out_tensor)
        *out_tensor = (dc_tensor)(uintptr_t)stack[0];
    return TSR_OK;
}

tsr_status dc_tensor_retyped(dc_tensor bytes, int32_t torch_dtype,
                             dc_tensor *out_tensor) {
    return call_op("aten::view", "dtype", bytes,
                   (dc_value)(uint32_t)torch_dtype, out_tensor);
}

tsr_status dc_tensor_clone(dc_tensor tensor, dc_tensor *out_tensor) {
    const dc_value no_memory_format = 0;
    return call_op("aten::clone", "", tensor, no_memory_format, out_tensor);
}

tsr_status dc_tensor_resize_storage(dc_tensor tensor, int64_t bytes) {
    return call_op("inductor::resize_storage_bytes_", "", tensor,
                   (dc_value)bytes, NULL);
}

tsr_status dc_tensor_hollow(const dc_view *like, dc_tensor *out_tensor) {
    const int64_t none = 0;
    dc_tensor empty = NULL;
    TSR_TRY(dc_tensor_empty(like, 1, &none, like->dtype, &empty));
    tsr_status status = dc_tensor_laid_out(empty, like, out_tensor);
    dc_tensor_release(empty);
    return status;
}

static void keep(void *memory, void *context) {
    (void)memory;
    (void)context;
}

tsr_status dc_tensor_around(void *memory, const dc_view *like,
                            dc_tensor *out_tensor) {
    DC_TRY(torch_from_blob(memory, like->dims, like->sizes, like->strides, 0,
                           like->dtype, like->device_type, like->device_index,
                           out_tensor, 0, NULL, 0, keep, NULL));
    return TSR_OK;
}

tsr_status dc_tensor_empty_data(dc_tensor tensor) {
    const int64_t none = 0;
    dc_view view;
    dc_tensor empty = NULL;
    TSR_TRY(dc_tensor_view(tensor, &view));
    TSR_TRY(dc_tensor_empty(&view, 1, &none, view.dtype, &empty));
    return call_op("aten::set_data", "", tensor, (dc_value)(uintptr_t)empty,
                   NULL);
}
