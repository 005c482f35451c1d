"""The audit of CUDA packages that load: every error would be a false alarm.

python bench/packages.py

Each release is asked about with the torch or the base it is made for, and `--quick`: symbols and requirements, read
from the package index (some hundred megabytes, once). Prints a table of releases and verdicts; exit code 1 with any
error.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SYSTEM = ("libnuma1", "libgomp1", "libibverbs1", "librdmacm1", "gcc")
TORCH = ("--torch", "2.15.0", "--base", "debian12")
CUDA12, CUDA13 = ("--base", "cuda12.9.devel"), ("--base", "cuda13.0.devel")
RAPIDS = ("--with", "rapids-logger==0.3.0")
PACKAGES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("apache-tvm-ffi==0.1.15.post2", ()),
    ("bitsandbytes==0.50.2", TORCH),
    ("catboost==1.2.10", ()),
    ("ctranslate2==4.8.5", CUDA12),
    ("cuda-bindings==13.5.0", ()),
    ("cuda-core==1.2.2", ()),
    ("cuequivariance-ops-torch-cu12==0.13.0", ("--with", "cuequivariance-ops-cu12==0.13.0", *CUDA12)),
    ("cuequivariance-ops-torch-cu13==0.13.0", ("--with", "cuequivariance-ops-cu13==0.13.0", *CUDA13)),
    ("cupy-cuda12x==14.2.0", CUDA12),
    ("cupy-cuda13x==14.2.0", CUDA13),
    ("decord2==3.4.0", ()),
    ("faiss-gpu-cu12==1.14.1.post1", CUDA12),
    ("fastsafetensors==0.5.0", TORCH),
    ("fbgemm-gpu==1.9.0", CUDA13),
    ("flashinfer-cubin==0.6.13", ("--with", "flashinfer-python==0.6.13")),
    ("flashinfer-python==0.7.4", TORCH),
    ("humming-kernels==0.1.20", TORCH),
    ("jax-cuda12-plugin==0.12.0.1", ("--with", "jax-cuda12-pjrt==0.12.0.1", *CUDA12)),
    ("jax-cuda13-plugin==0.12.0.1", ("--with", "jax-cuda13-pjrt==0.12.0.1", *CUDA13)),
    ("kvikio-cu12==26.10.0", (*RAPIDS, "--with", "libkvikio-cu12==26.10.0", *CUDA12)),
    ("lightgbm==4.7.0", ()),
    ("lmcache==0.5.6", ("--torch", "2.13.0", "--base", "debian12")),
    ("mooncake-transfer-engine==0.3.13.post1", CUDA12),
    ("nixl-cu12==1.5.1", ("--torch", "2.10.0", *CUDA12)),
    ("nixl-cu13==1.5.1", CUDA13),
    ("numba-cuda==0.30.4", ()),
    ("nvidia-cutlass-dsl-libs-cu13==4.8.1", ()),
    ("nvidia-dali-cuda120==2.4.0", CUDA12),
    ("nvidia-dali-cuda130==2.4.0", CUDA13),
    ("onnxruntime-gpu==1.31.1", TORCH),
    ("open3d==0.20.0", ()),
    ("pynvvideocodec==2.2.4", ()),
    ("rmm-cu12==26.10.0", (*RAPIDS, "--with", "librmm-cu12==26.10.0", *CUDA12)),
    ("sglang-kernel==0.4.10", ("--base", "debian12")),
    ("tensorflow==2.21.0", CUDA12),
    ("tilelang==0.1.15", TORCH),
    ("tokenspeed-triton==3.9.10.post20261028", ()),
    ("torch-c-dlpack-ext==0.1.5", TORCH),
    ("torch-memory-saver==0.0.10", TORCH),
    ("torch-tensorrt==2.14.0", ()),
    ("torchao==0.18.0", TORCH),
    ("torchaudio==2.11.1", TORCH),
    ("torchcodec==0.17.0", TORCH),
    ("torchvision==0.29.2", ("--base", "debian12")),
    ("transformer-engine-cu12==2.20.2", ("--torch", "2.10.0", *CUDA12)),
    ("transformer-engine-cu13==2.20.2", CUDA13),
    ("triton==3.9.0", ()),
    ("vllm==0.33.0", ("--base", "debian12")),
    ("warp-lang==1.19.0", ()),
    ("xformers==0.0.35", ("--base", "debian12")),
    ("xgboost==3.4.1", CUDA12),
    ("xgrammar==0.2.9", TORCH),
)


def main() -> int:
    errors = 0
    chosen = [item for item in PACKAGES if not sys.argv[1:] or item[0].partition("==")[0] in sys.argv[1:]]
    print("| release | with | verdict | errors |\n| --- | --- | --- | --- |", flush=True)
    for word, options in chosen:
        packages = [part for name in SYSTEM for part in ("--package", name)]
        done = subprocess.run(
            [sys.executable, "-m", "assay", "audit", word, *options, *packages, "--quick", "--no-record", "--format",
             "json", "--project", str(ROOT)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if not done.stdout:
            print(f"| {word} | {' '.join(options)} | no answer | {done.stderr.strip()} |", flush=True)
            errors += 1
            continue
        (report,) = json.loads(done.stdout)["reports"]
        wrong = [f"{one['rule']} {one['message']}" for one in report["findings"] if one["severity"] == "error"]
        errors += len(wrong)
        beside = [
            f"{name} {version}" for name, version in report["packages"].items() if name != word.partition("==")[0]
        ]
        base = [report["base"]] if report["base"] != "not given" else []
        said = f"| {word.replace('==', ' ')} | {', '.join([*beside, *base])} | {report['verdict']} |"
        print(f"{said} {'; '.join(wrong) or 'none'} |", flush=True)
    print(f"\n{len(chosen)} releases, {errors} errors")
    return int(errors > 0)


if __name__ == "__main__":
    sys.exit(main())
