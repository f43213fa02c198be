# The loops of sums over ranks, compiled once an instruction set, with the same bits: no contraction.
function(tessera_sum_loops isa)
    add_library(tessera_sum_${isa} OBJECT comm/sum/loops.c)
    tessera_objects(tessera_sum_${isa})
    target_compile_definitions(tessera_sum_${isa} PRIVATE TSR_ISA=${isa})
    target_compile_options(tessera_sum_${isa} PRIVATE -O3 -ffp-contract=off ${ARGN}
        $<$<C_COMPILER_ID:Clang,AppleClang>:-Wno-pass-failed>) # sanitized loops do not vectorise
endfunction()

tessera_sum_loops(baseline)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    tessera_sum_loops(avx2 -mavx2)
    tessera_sum_loops(avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512)
endif()
