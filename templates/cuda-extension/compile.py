"""Compiles a CUDA extension and one FlashInfer module for TORCH_CUDA_ARCH_LIST, without a GPU."""

import os
import pathlib
import shutil

from torch.utils import cpp_extension

OUT = pathlib.Path("/out")


def extension() -> None:
    """Compile scale.cu as PyTorch extensions are compiled."""
    build = pathlib.Path("/build/scale")
    build.mkdir(parents=True)
    cpp_extension.load(
        name="scale",
        sources=["/src/scale.cu"],
        build_directory=str(build),
        extra_ldflags=["-L/opt/cuda/lib64"],
        is_python_module=False,
        verbose=True,
    )
    shutil.copy(build / "scale.so", OUT / "scale.so")


def flashinfer_module() -> None:
    """Compile FlashInfer's cascade module (merging of attention states) ahead of time.

    FlashInfer takes machine code for the family (120f) from a list of its own; PTX is asked for beside it. Its norm
    module cannot be had as PTX for compute_120: it converts FP4, which only 120a and 120f have.
    """
    archs = os.environ["TORCH_CUDA_ARCH_LIST"].replace(";", " ").split()
    ptx = [arch.removesuffix("+PTX").replace(".", "") for arch in archs if arch.endswith("+PTX")]
    flags = [f"-gencode=arch=compute_{arch},code=compute_{arch}" for arch in ptx]
    os.environ["FLASHINFER_EXTRA_CUDAFLAGS"] = " ".join(flags)
    os.environ["FLASHINFER_WORKSPACE_BASE"] = "/build/flashinfer"
    from flashinfer.jit.cascade import gen_cascade_module

    spec = gen_cascade_module()
    spec.build(verbose=True)
    shutil.copy(spec.jit_library_path, OUT / "flashinfer_cascade.so")


OUT.mkdir()
extension()
flashinfer_module()
