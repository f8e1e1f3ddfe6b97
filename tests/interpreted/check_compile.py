"""The Triton kernels compile for real GPUs: machine code is made here, no GPU needed to make it.

    python -m pytest tests/interpreted/check_compile.py

What an interpreter cannot see: types, layouts, and whether a tile fits the fast memory of a core.
"""

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from llm.nn.kernels import flash_triton

SHARED_BYTES = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10}  # of a core, by compute capability
NUMBER = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
INT = ("T", "N", "R", "H", "V")


def compiled(kernel, capability, width, dtype):
    tile = flash_triton.tile_of(width, width, dtype)
    signature = {}
    for name in kernel.arg_names:
        if name in tile:
            signature[name] = "constexpr"
        elif name in INT:
            signature[name] = "i32"
        elif name == "scale":
            signature[name] = "fp32"
        elif name in ("first_ptr", "last_ptr"):
            signature[name] = "*i32"
        elif name in ("lse_ptr", "delta_ptr"):
            signature[name] = "*fp32"
        else:
            signature[name] = f"*{NUMBER[dtype]}"
    constants = {(kernel.arg_names.index(name),): value for name, value in tile.items()}
    source = ASTSource(kernel, signature, constexprs=constants)
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={"num_stages": flash_triton.STAGES})


@pytest.mark.parametrize("capability", [80, 86, 90])
@pytest.mark.parametrize(
    ("dtype", "width"),
    [(torch.bfloat16, 64), (torch.bfloat16, 256), (torch.float32, 64), (torch.float16, 100)],
)
@pytest.mark.parametrize("name", ["forward_kernel", "query_kernel", "key_kernel"])
def test_machine_code_is_made_and_its_tiles_fit(name, width, dtype, capability):
    made = compiled(getattr(flash_triton, name), capability, width, dtype)
    assert len(made.asm["cubin"]) > 1000
    assert made.metadata.shared <= SHARED_BYTES[capability]
    wide = dtype != torch.float32
    assert ("mma" in made.asm["ptx"]) == wide  # tensor cores for 16 bits, and no TF32 for 32
