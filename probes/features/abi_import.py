"""Every extension module of the packages that matter can be loaded: no undefined symbol, no missing library."""

FEATURE = "abi-import"
REQUIRES = ()
TIMEOUT = 300
GPUS = 0
WARM = False
SABOTAGE = {"missing-library": "broken"}

PACKAGES = (
    "torch", "torchvision", "torchaudio", "triton", "vllm", "vllm_flash_attn", "sglang", "sgl_kernel", "flashinfer",
    "flashinfer_jit_cache", "flash_attn", "flash_attn_interface", "xgrammar", "deep_gemm", "torchao", "xformers",
    "numpy", "tvm_ffi",
)  # fmt: skip
IMPORTS = (
    "torch",
    "triton",
    "vllm",
    "vllm._custom_ops",
    "sgl_kernel",
    "flashinfer",
    "flash_attn",
    "sglang",
    "xgrammar",
)


def run(probe):
    import importlib.util
    import json
    import os
    import subprocess
    import sys

    found = {}
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            found.setdefault(name, []).extend(extensions(folder))
    libraries = sorted({path for paths in found.values() for path in paths})
    probe.metric("packages", " ".join(sorted(found)))
    failures = []
    if probe.sabotage == "missing-library":
        failures.append("sabotaged.so: libnuma.so.1: cannot open shared object file: No such file or directory")
    loaded = 0
    pending = libraries
    while pending:
        # One child loads them all and says each name first: after a crash the next child goes on behind the culprit.
        child = subprocess.run(
            [sys.executable, "-c", LOADER], input=json.dumps(pending), capture_output=True, text=True
        )
        said = [json.loads(line) for line in child.stdout.splitlines() if line.startswith("[")]
        loaded += sum(1 for what, _, _ in said if what == "ok")
        failures += [f"{os.path.basename(path)}: {error}" for what, path, error in said if what == "bad"]
        begun = [path for what, path, _ in said if what == "try"]
        done = {path for what, path, _ in said if what in ("ok", "bad")}
        crashed = [path for path in begun if path not in done]
        if not crashed:
            if child.returncode:
                raise RuntimeError(f"the loader ended with {child.returncode}: {child.stderr[-500:]}")
            break
        failures.append(f"{os.path.basename(crashed[0])}: loading it ends the process ({child.returncode})")
        pending = pending[pending.index(crashed[0]) + 1 :]
    probe.metric("libraries", len(libraries))
    probe.metric("libraries_loaded", loaded)
    for name in IMPORTS:
        if probe.is_absent(name):
            continue
        child = subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, text=True)
        if child.returncode:
            lines = child.stderr.strip().splitlines() or [f"exit {child.returncode}"]
            last = next((line for line in reversed(lines) if "Error" in line or "error" in line), lines[-1])
            failures.append(f"import {name}: {last}")
            probe.note(f"import {name}: " + child.stderr[-1500:])
        else:
            probe.show(f"import {name}")
    driverless = [text for text in failures if "libcuda.so.1: cannot open" in text]
    if driverless and no_driver():
        # The driver comes from the host with the GPU; without one this says nothing of the image.
        failures = [text for text in failures if text not in driverless]
        probe.metric("need_the_driver", len(driverless))
        probe.note(f"{len(driverless)} libraries or imports need the driver's libcuda.so.1, which is not here")
    if failures:
        raise ImportError("; ".join(failures)[:1800])
    if libraries:
        probe.show(f"{loaded} libraries")
    else:
        from probelib.context import NotRun

        raise NotRun("none of the packages is installed")


def no_driver():
    import ctypes

    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return True
    return False


def extensions(folder):
    """Yield shared objects under a package that are its own: bundled third-party libraries load through these."""
    import os

    for base, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in ("test", "tests", "cubins", "data")]
        for name in sorted(names):
            if name.endswith(".so") and not name.startswith("lib"):
                yield os.path.join(base, name)


# torch goes first, as importing a package would have loaded it. A library that another one of the same package provides
# (torchaudio keeps its own beside its modules) is what the package itself loads first.
LOADER = """
import ctypes, json, os, re, sys
def say(*words):
    print(json.dumps(words), flush=True)
try:
    import torch
except Exception:
    pass
def find(path, missing):
    package = path.split("site-packages/")[-1].split("dist-packages/")[-1].split("/")[0]
    root = path[: path.index(package)] + package
    for base, _, names in os.walk(root):
        if missing in names:
            return os.path.join(base, missing)
def load(path, depth=0):
    try:
        ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL if depth else ctypes.DEFAULT_MODE)
    except OSError as error:
        lacking = re.match(r"(\\S+): cannot open shared object file", str(error))
        own = find(path, lacking.group(1)) if lacking and depth < 5 else None
        if own is None:
            raise
        load(own, depth + 1)
        load(path, depth + 1)
for path in json.load(sys.stdin):
    name = os.path.basename(path)
    if ".cpython-" in name and f".cpython-{sys.version_info[0]}{sys.version_info[1]}-" not in name:
        continue
    say("try", path, "")
    try:
        load(path)
    except OSError as error:
        say("bad", path, str(error)[:400])
    else:
        say("ok", path, "")
"""
