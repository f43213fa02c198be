/* Tensors of torch's, through its C interface. */
#ifndef TSR_TORCH_TENSOR_H
#define TSR_TORCH_TENSOR_H

#include "shim.h"
#include "tessera/dtype.h"

/* What a tensor is now; sizes and strides are the tensor's (borrowed). */
typedef struct dc_view {
    int64_t numel, dims;
    const int64_t *sizes, *strides;
    int32_t dtype; /* torch's */
    int32_t device_type, device_index;
    bool contiguous;
} dc_view;

tsr_status dc_tensor_view(dc_tensor tensor, dc_view *out_view);
/* Its dtype and device alone: for tensors without data too, whose sizes may be
 * symbols. */
tsr_status dc_tensor_kind(dc_tensor tensor, dc_view *out_view);
/* Where its elements are now; NULL: it has none. */
tsr_status dc_tensor_data(dc_tensor tensor, void **out_data);
/* FAILED_PRECONDITION: its storage holds fewer bytes than its elements need;
 * somebody resized it. */
tsr_status dc_tensor_check_memory(dc_tensor tensor, const dc_view *view);
/* Takes NULL. */
void dc_tensor_release(dc_tensor tensor);
/* A second reference to it. */
tsr_status dc_tensor_share(dc_tensor tensor, dc_tensor *out_tensor);

/* Errors: UNSUPPORTED (not f32, bf16 or f16). */
tsr_status dc_dtype_from_torch(int32_t torch_dtype, tsr_dtype *out_dtype);
int32_t dc_dtype_to_torch(tsr_dtype dtype);

/* Dense, of the device of `like`. */
tsr_status dc_tensor_empty(const dc_view *like, int64_t dims,
                           const int64_t *sizes, int32_t torch_dtype,
                           dc_tensor *out_tensor);
/* Dense, with the values; cast if its dtype is another. */
tsr_status dc_tensor_copy(dc_tensor tensor, int32_t torch_dtype,
                          dc_tensor *out_tensor);
/* The same values, in memory of their own; also without data. */
tsr_status dc_tensor_clone(dc_tensor tensor, dc_tensor *out_tensor);
/* `flat` (elements of one dimension) seen in the shape and layout of `like`,
 * which is dense. */
tsr_status dc_tensor_laid_out(dc_tensor flat, const dc_view *like,
                              dc_tensor *out_tensor);
/* `flat` seen in that shape. */
tsr_status dc_tensor_shaped(dc_tensor flat, int64_t dims, const int64_t *sizes,
                            dc_tensor *out_tensor);
/* Bytes seen as elements of a dtype. */
tsr_status dc_tensor_retyped(dc_tensor bytes, int32_t torch_dtype,
                             dc_tensor *out_tensor);
/* Bytes of its storage, for all tensors that share it; 0 frees the memory. */
tsr_status dc_tensor_resize_storage(dc_tensor tensor, int64_t bytes);
/* Whether its elements fill their memory, in whatever order of dimensions. */
bool dc_view_dense(const dc_view *view);
/* A tensor that looks like `like` and has no memory: nobody reads it. */
tsr_status dc_tensor_hollow(const dc_view *like, dc_tensor *out_tensor);
/* Memory that is not torch's, laid out as `like`; outlives the tensor. */
tsr_status dc_tensor_around(void *memory, const dc_view *like,
                            dc_tensor *out_tensor);
/* The tensor becomes empty; its storage goes when no other has it. */
tsr_status dc_tensor_empty_data(dc_tensor tensor);

#endif
