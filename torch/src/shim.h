/* Our declarations of the part of PyTorch's stable C interface that we use,
 * and where its functions are found at run time: torch's own headers are C++.
 * tests/abi_check.cpp compares each line with the headers of an installed
 * torch. Nothing here links torch.
 *
 * An argument or result of an op travels as 64 bits, a dc_value: an integer, a
 * dtype (its low 32 bits), a bool (its low 8), or an owned handle. Optional
 * ones are 0 or a pointer to a dc_value. */
#ifndef TSR_TORCH_SHIM_H
#define TSR_TORCH_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef uint64_t dc_value;
typedef struct dc_tensor_ *dc_tensor; /* a counted reference to a tensor */
typedef struct dc_list_ *dc_list;
typedef struct dc_library_ *dc_library;
typedef int32_t dc_error; /* 0: success */
typedef void (*dc_kernel)(dc_value *stack, uint64_t arguments,
                          uint64_t results);

/* clang-format off */
/* Since torch 2.9 or older. */
#define DC_SHIM_OLD(X)                                                         \
    X(uint64_t, aoti_torch_abi_version, (void))                                \
    X(int32_t, aoti_torch_device_type_cpu, (void))                             \
    X(int32_t, aoti_torch_device_type_meta, (void))                            \
    X(int32_t, aoti_torch_dtype_float32, (void))                               \
    X(int32_t, aoti_torch_dtype_float16, (void))                               \
    X(int32_t, aoti_torch_dtype_bfloat16, (void))                              \
    X(int32_t, aoti_torch_dtype_uint8, (void))                                 \
    X(size_t, aoti_torch_dtype_element_size, (int32_t))                        \
    X(dc_error, aoti_torch_delete_tensor_object, (dc_tensor))                  \
    X(dc_error, aoti_torch_new_tensor_handle, (dc_tensor, dc_tensor *))        \
    X(dc_error, aoti_torch_new_uninitialized_tensor, (dc_tensor *))            \
    X(dc_error, aoti_torch_get_data_ptr, (dc_tensor, void **))                 \
    X(dc_error, aoti_torch_get_storage_size, (dc_tensor, int64_t *))           \
    X(dc_error, aoti_torch_get_storage_offset, (dc_tensor, int64_t *))         \
    X(dc_error, aoti_torch_get_dim, (dc_tensor, int64_t *))                    \
    X(dc_error, aoti_torch_get_numel, (dc_tensor, int64_t *))                  \
    X(dc_error, aoti_torch_get_sizes, (dc_tensor, int64_t **))                 \
    X(dc_error, aoti_torch_get_strides, (dc_tensor, int64_t **))               \
    X(dc_error, aoti_torch_get_dtype, (dc_tensor, int32_t *))                  \
    X(dc_error, aoti_torch_get_device_type, (dc_tensor, int32_t *))            \
    X(dc_error, aoti_torch_get_device_index, (dc_tensor, int32_t *))           \
    X(dc_error, aoti_torch_is_contiguous, (dc_tensor, bool *))                 \
    X(dc_error, aoti_torch__reinterpret_tensor,                                \
      (dc_tensor, int64_t, const int64_t *, const int64_t *, int64_t,          \
       dc_tensor *))                                                           \
    X(dc_error, aoti_torch_empty_strided,                                      \
      (int64_t, const int64_t *, const int64_t *, int32_t, int32_t, int32_t,   \
       dc_tensor *))                                                           \
    X(dc_error, aoti_torch_copy_, (dc_tensor, dc_tensor, int32_t))             \
    X(dc_error, aoti_torch_library_init_fragment,                              \
      (const char *, const char *, uint32_t, dc_library *))                    \
    X(dc_error, aoti_torch_library_init_impl,                                  \
      (const char *, const char *, const char *, uint32_t, dc_library *))      \
    X(dc_error, aoti_torch_library_def, (dc_library, const char *))            \
    X(void, aoti_torch_check,                                                  \
      (bool, const char *, const char *, uint32_t, const char *))

/* Since torch 2.10. */
#define DC_SHIM_210(X)                                                         \
    X(dc_error, torch_call_dispatcher,                                         \
      (const char *, const char *, dc_value *, uint64_t))                      \
    X(dc_error, torch_library_impl,                                            \
      (dc_library, const char *, dc_kernel, uint64_t))                         \
    X(dc_error, torch_list_size, (dc_list, size_t *))                          \
    X(dc_error, torch_list_get_item, (dc_list, size_t, dc_value *))            \
    X(dc_error, torch_delete_list, (dc_list))

/* Since torch 2.11, the oldest that we take. */
#define DC_SHIM_211(X)                                                         \
    X(dc_error, torch_from_blob,                                               \
      (void *, int64_t, const int64_t *, const int64_t *, int64_t, int32_t,    \
       int32_t, int32_t, dc_tensor *, int32_t, const uint8_t *, int64_t,       \
       void (*)(void *, void *), void *))

/* Since torch 2.13; done without where they are missing. */
#define DC_SHIM_213(X)                                                         \
    X(dc_error, torch_delete_stable_ivalue, (dc_value *))                      \
    X(const char *, torch_exception_get_what_without_backtrace, (void))
/* clang-format on */

/* What was found, constant after dc_shim_load. */
typedef struct dc_shim {
#define DC_SHIM_MEMBER(result, name, arguments) result(*name) arguments;
    DC_SHIM_OLD(DC_SHIM_MEMBER)
    DC_SHIM_210(DC_SHIM_MEMBER)
    DC_SHIM_211(DC_SHIM_MEMBER)
    DC_SHIM_213(DC_SHIM_MEMBER)
#undef DC_SHIM_MEMBER
    void (*operator_delete)(void *);
    uint64_t version; /* of the interface that we and torch both know */
} dc_shim;

/* Torch must be loaded in this process. Idempotent; one thread at a time.
 * Errors: FAILED_PRECONDITION (no torch here); UNSUPPORTED (torch is older than
 * 2.11, or lacks a function: named). */
tsr_status dc_shim_load(void);

/* Borrowed; valid after dc_shim_load. */
const dc_shim *dc_torch(void);

/* A failed call of torch's as a status that says why. */
tsr_status dc_torch_failed(const char *call);
#define DC_TRY(call)                                                           \
    do {                                                                       \
        if (dc_torch()->call != 0)                                             \
            return dc_torch_failed(#call);                                     \
    } while (0)

/* Raises this thread's last error in Python, as the op's, through its kernel's
 * caller: a C++ exception passes, so the kernel owns nothing any more. */
void dc_throw(const char *op);

#endif
