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
# Extensions that their package loads only when what needs a library of the user's own system is called, and that lack
# that library rather than anything of the image: path of the extension, the library. Any other fault of them counts.
OPTIONAL = (
    # lazy_import_sox_ext in torchaudio/_extension/__init__.py: loaded when sox is first used. torchaudio 2.8 ships it,
    # the main branch has it no more (read 2026-11-27).
    ("torchaudio/lib/_torchaudio_sox.so", "libsox.so*"),
)


def run(probe):
    import importlib.util

    labels = {}
    packages = []
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            packages.append(name)
            labels.update((path, name + path[len(folder) :]) for path in extensions(folder))
    probe.metric("packages", " ".join(sorted(set(packages))))
    failures = []
    if probe.sabotage == "missing-library":
        failures.append(("sabotaged.so", "libnuma.so.1: cannot open shared object file: No such file or directory"))
    loaded = 0
    for some in rounds(labels):
        done, bad = load(some)
        loaded += done
        failures += [(labels[path], error) for path, error in bad]
    probe.metric("libraries", len(labels))
    probe.metric("libraries_loaded", loaded)
    optional = [f"{label} wants {lacking(error)}" for label, error in failures if is_optional(label, error)]
    if optional:
        probe.metric("optional", "; ".join(optional)[:500])
        probe.note("optional: " + "; ".join(optional))
    texts = import_all(probe, [item for item in failures if not is_optional(*item)])
    driverless = [text for text in texts if "libcuda.so.1: cannot open" in text]
    if driverless and no_driver():
        # The driver comes from the host with the GPU; without one this says nothing of the image.
        texts = [text for text in texts if text not in driverless]
        probe.metric("need_the_driver", len(driverless))
        probe.note(f"{len(driverless)} libraries or imports need the driver's libcuda.so.1, which is not here")
    if texts:
        raise ImportError("; ".join(texts)[:1800])
    if labels:
        probe.show(f"{loaded} libraries")
    else:
        from probelib.context import NotRun

        raise NotRun("none of the packages is installed")


def import_all(probe, failures):
    """Import the packages; return in words what failed, the libraries [label, error] that did not load among it."""
    failed = {name: import_error(probe, name) for name in IMPORTS if not probe.is_absent(name)}
    for name in (name for name, error in failed.items() if not error):
        probe.show(f"import {name}")
    texts = [f"import {name}: {error}" for name, error in failed.items() if error]
    for label, error in failures:
        package = label.split("/")[0]
        if package in PACKAGES and package not in failed:
            failed[package] = import_error(probe, package)
        # A package may catch what its extension raises and go on without it, as torchao does with all of its kernels.
        alone = f" ({package} itself imports; what is in this library fails)" if failed.get(package) == "" else ""
        texts.append(f"{label}: {error}{alone}")
    return texts


def rounds(labels):
    """Return the libraries in lists, each to be loaded by one process: none has two of one name and package.

    Those are builds of one library for different cards, of which the package loads one (sglang-kernel 0.4 has
    sm90/common_ops.abi3.so and sm100/common_ops.abi3.so); two of them register the same operators, and torch aborts.
    """
    found = []
    seen = {}
    for path in sorted(labels):
        key = (labels[path].split("/")[0], path.rpartition("/")[2])
        at = seen[key] = seen.get(key, -1) + 1
        if at == len(found):
            found.append([])
        found[at].append(path)
    return found


def load(pending):
    """Load libraries in a process of their own; return how many loaded, and [path, error] of those that did not."""
    import json
    import subprocess
    import sys

    loaded, failures = 0, []
    while pending:
        # One child loads them all and says each name first: after a crash the next child goes on behind the culprit.
        child = subprocess.run(
            [sys.executable, "-c", LOADER], input=json.dumps(pending), capture_output=True, text=True
        )
        said = [json.loads(line) for line in child.stdout.splitlines() if line.startswith("[")]
        loaded += sum(1 for what, _, _ in said if what == "ok")
        failures += [(path, error) for what, path, error in said if what == "bad"]
        begun = [path for what, path, _ in said if what == "try"]
        done = {path for what, path, _ in said if what in ("ok", "bad")}
        crashed = [path for path in begun if path not in done]
        if not crashed:
            if child.returncode:
                raise RuntimeError(f"the loader ended with {child.returncode}: {child.stderr[-500:]}")
            break
        cause = next((line.strip()[:300] for line in child.stderr.splitlines() if "what():" in line), "")
        failures.append((crashed[0], f"loading it ends the process ({child.returncode}) {cause}".rstrip()))
        pending = pending[pending.index(crashed[0]) + 1 :]
    return loaded, failures


def lacking(error):
    """Return the library that could not be found, by the loader's own words; empty if that is not what failed."""
    name, found, _ = error.partition(": cannot open shared object file")
    return name if found else ""


def is_optional(label, error):
    from fnmatch import fnmatch

    return any(fnmatch(label, path) and fnmatch(lacking(error), library) for path, library in OPTIONAL)


def import_error(probe, name):
    """Import a module in a process of its own; return what went wrong, empty if nothing did."""
    import subprocess
    import sys

    child = subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, text=True)
    if not child.returncode:
        return ""
    probe.note(f"import {name}: " + child.stderr[-1500:])
    lines = child.stderr.strip().splitlines() or [f"exit {child.returncode}"]
    return next((line for line in reversed(lines) if "Error" in line or "error" in line), lines[-1])


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
