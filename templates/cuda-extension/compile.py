"""Compiles a CUDA extension and one FlashInfer module for TORCH_CUDA_ARCH_LIST, without a GPU."""

import os
import pathlib
import shutil

OUT = pathlib.Path("/out")
OUT.mkdir()

from torch.utils import cpp_extension  # noqa: E402

build = pathlib.Path("/tmp/scale")
build.mkdir()
cpp_extension.load(
    name="scale",
    sources=["/src/scale.cu"],
    build_directory=str(build),
    extra_ldflags=["-L/opt/cuda/lib64"],
    is_python_module=False,
    verbose=True,
)
shutil.copy(build / "scale.so", OUT / "scale.so")

# FlashInfer takes machine code for the family (120f) from its own list; PTX is asked for beside it.
ptx = [arch.removesuffix("+PTX").replace(".", "") for arch in os.environ["TORCH_CUDA_ARCH_LIST"].replace(";", " ").split()
       if arch.endswith("+PTX")]
os.environ["FLASHINFER_EXTRA_CUDAFLAGS"] = " ".join(f"-gencode=arch=compute_{arch},code=compute_{arch}" for arch in ptx)
os.environ["FLASHINFER_WORKSPACE_BASE"] = "/tmp/flashinfer"

from flashinfer.jit.norm import gen_norm_module  # noqa: E402

spec = gen_norm_module()
spec.build(verbose=True)
shutil.copy(spec.jit_library_path, OUT / "flashinfer_norm.so")
