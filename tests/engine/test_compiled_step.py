"""The list of kernels is read from the code that Inductor writes, for either device."""

from __future__ import annotations

from tests.engine.compiled_step import kernels

CODE = '''
triton_red_fused__to_copy_add_mean_0 = async_compile.triton("...", """
def triton_red_fused__to_copy_add_mean_0(in_ptr0):
""")
class Runner:
    def call(self, args):
        buf0 = empty_strided_cuda((s0, 32), (32, 1), torch.bfloat16)
        triton_red_fused__to_copy_add_mean_0.run(arg1_1, buf0, s0, 32, stream=stream0)
        cpp_fused_silu_mul_1(buf0, buf1)
        extern_kernels.mm(buf0, reinterpret_tensor(arg2_1, (32, 64), (1, 32), 0), out=buf1)
        buf2 = torch.ops.fastsia.attend.default(buf1, buf1, buf1, arg3_1, 0)
        buf3 = buf2
        return (buf3, )

def benchmark_compiled_module():
    extern_kernels.addmm(a, b)
'''


def test_kernels_are_listed_in_order() -> None:
    found = ["triton_red_fused__to_copy_add_mean_0", "cpp_fused_silu_mul_1", "mm", "fastsia.attend.default"]
    assert kernels(CODE) == found
