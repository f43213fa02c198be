#include "shim.h"

#include <dlfcn.h>

#include "registry.h"

/* Of the interface as we know it: torch 2.11. */
#define KNOWN_VERSION ((UINT64_C(2) << 56) | (UINT64_C(11) << 48))

const dc_shim *dc_torch(void) { return &dc_registry()->shim; }

/* A function's address goes through an object's: POSIX lets it. */
static tsr_status find(void *torch, const char *name, bool needed,
                       void *out_function) {
    void *found = dlsym(torch, name);
    *(void **)out_function = found;
    return found || !needed
               ? TSR_OK
               : tsr_error(TSR_UNSUPPORTED,
                           "this torch has no %s: version 2.11 or later is "
                           "needed",
                           name);
}

static tsr_status find_all(void *torch, dc_shim *shim) {
#define NEEDED(result, name, arguments)                                        \
    TSR_TRY(find(torch, #name, true, (void *)&shim->name));
#define OPTIONAL(result, name, arguments)                                      \
    TSR_TRY(find(torch, #name, false, (void *)&shim->name));
    DC_SHIM_OLD(NEEDED)
    DC_SHIM_210(NEEDED)
    DC_SHIM_211(NEEDED)
    DC_SHIM_213(OPTIONAL)
#undef NEEDED
#undef OPTIONAL
    /* operator delete, of the C++ library that torch uses */
    return find(torch, "_ZdlPv", true, (void *)&shim->operator_delete);
}

tsr_status dc_shim_load(void) {
    dc_shim *shim = &dc_registry()->shim;
    if (shim->version != 0)
        return TSR_OK;
    void *torch = dlopen("libtorch_cpu.so", RTLD_NOW | RTLD_NOLOAD);
    if (!torch)
        return tsr_error(TSR_FAILED_PRECONDITION,
                         "torch is not loaded: import torch first");
    tsr_status status = find_all(torch, shim);
    dlclose(torch); /* Python keeps it */
    TSR_TRY(status);
    uint64_t theirs = shim->aoti_torch_abi_version();
    shim->version = theirs < KNOWN_VERSION ? theirs : KNOWN_VERSION;
    return TSR_OK;
}

tsr_status dc_torch_failed(const char *call) {
    const dc_shim *shim = dc_torch();
    const char *why = shim->torch_exception_get_what_without_backtrace
                          ? shim->torch_exception_get_what_without_backtrace()
                          : NULL;
    return tsr_error(TSR_IO, "torch: %.*s failed: %s",
                     (int)__builtin_strcspn(call, "("), call,
                     why && *why ? why : "see its log above");
}

void dc_throw(const char *op) {
    (void)tsr_error_at(TSR_OK, "%s", op);
    dc_torch()->aoti_torch_check(false, "tessera_torch", "tessera_torch", 0,
                                 tsr_last_error());
}
