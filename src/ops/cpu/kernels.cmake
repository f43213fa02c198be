# The sources of ops/cpu, compiled once an instruction set. -ffp-contract and friends are for these files alone; never -ffast-math,
# under which a NaN passes.
file(GLOB TESSERA_CPU_SOURCES CONFIGURE_DEPENDS ops/cpu/*.c)

function(tessera_cpu_kernels isa)
    add_library(tessera_ops_${isa} OBJECT ${TESSERA_CPU_SOURCES})
    tessera_objects(tessera_ops_${isa})
    target_compile_definitions(tessera_ops_${isa} PRIVATE TSR_ISA=${isa})
    target_compile_options(tessera_ops_${isa} PRIVATE
        -O3 -fopenmp-simd -ffp-contract=fast -fno-math-errno -fno-trapping-math ${ARGN}
        $<$<C_COMPILER_ID:Clang,AppleClang>:-Wno-pass-failed>) # sanitized loops do not vectorise
endfunction()

tessera_cpu_kernels(baseline)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    tessera_cpu_kernels(avx2 -mavx2 -mfma)
    tessera_cpu_kernels(avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mprefer-vector-width=512)
endif()
