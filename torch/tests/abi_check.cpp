// Compiled only, never linked: src/shim.h must say of each function what the headers of the installed torch say, as far as the
// C calling convention sees it (number of arguments, size and register class of each).
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/c/shim.h>

namespace ours {
using std::size_t;
#define TESSERA_STATUS_H
enum tsr_status { TSR_OK };
#define TSR_BASE_STATUS_H
#include "shim.h"
} // namespace ours

template <class A, class B> constexpr bool alike() {
    if constexpr (std::is_void_v<A> || std::is_void_v<B>)
        return std::is_void_v<A> && std::is_void_v<B>;
    else if constexpr (std::is_pointer_v<A> || std::is_pointer_v<B>)
        return std::is_pointer_v<A> && std::is_pointer_v<B>;
    else
        return std::is_floating_point_v<A> == std::is_floating_point_v<B> && sizeof(A) == sizeof(B) &&
               std::is_signed_v<A> == std::is_signed_v<B>;
}

template <class F, class G> struct same_call : std::false_type {};
template <class R, class... A, class S, class... B>
    requires(sizeof...(A) == sizeof...(B))
struct same_call<R(A...), S(B...)> : std::bool_constant<alike<R, S>() && (... && alike<A, B>())> {};

namespace ours {
#define CHECK(result, name, arguments)                                                                                           \
    static_assert(same_call<result arguments, std::remove_pointer_t<decltype(&::name)>>::value, #name " differs");
DC_SHIM_OLD(CHECK)
DC_SHIM_210(CHECK)
DC_SHIM_211(CHECK)
#if TORCH_FEATURE_VERSION >= ((2ULL << 56) | (13ULL << 48))
DC_SHIM_213(CHECK)
#endif
#ifdef WRONG // what the test of this test adds
CHECK(dc_error, aoti_torch_get_numel, (dc_tensor, int32_t))
#endif
} // namespace ours
