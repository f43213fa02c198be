# The sources of ops/cpu, compiled once an instruction set, those that include element.h also once an element.
# -ffp-contract and friends are for these files alone; never -ffast-math, under which a NaN passes.
file(GLOB TESSERA_CPU_SOURCES CONFIGURE_DEPENDS ops/cpu/*.c)
set(TESSERA_CPU_ELEMENTS ${TESSERA_CPU_SOURCES})
list(FILTER TESSERA_CPU_SOURCES INCLUDE REGEX "/(gemm|optimizer|product_f32|table)\\.c$")
list(FILTER TESSERA_CPU_ELEMENTS EXCLUDE REGEX "/(gemm|optimizer|product_f32|product_bf16|table)\\.c$")

function(tessera_cpu_objects target isa)
    tessera_objects(${target})
    target_compile_definitions(${target} PRIVATE TSR_ISA=${isa})
    target_compile_options(${target} PRIVATE
        -O3 -fopenmp-simd -ffp-contract=fast -fno-math-errno -fno-trapping-math ${ARGN}
        $<$<C_COMPILER_ID:Clang,AppleClang>:-Wno-pass-failed>) # sanitized loops do not vectorise
endfunction()

function(tessera_cpu_kernels isa)
    add_library(tessera_ops_${isa} OBJECT ${TESSERA_CPU_SOURCES} ${TESSERA_CPU_ELEMENTS})
    tessera_cpu_objects(tessera_ops_${isa} ${isa} ${ARGN})
    add_library(tessera_ops_${isa}_bf16 OBJECT ops/cpu/product_bf16.c ${TESSERA_CPU_ELEMENTS})
    tessera_cpu_objects(tessera_ops_${isa}_bf16 ${isa} ${ARGN})
    target_compile_definitions(tessera_ops_${isa}_bf16 PRIVATE TSR_ELEMENT_BF16)
endfunction()

tessera_cpu_kernels(baseline)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    tessera_cpu_kernels(avx2 -mavx2 -mfma)
    tessera_cpu_kernels(avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mprefer-vector-width=512)
endif()
