# SPDX-License-Identifier: Apache-2.0
"""Builds wheel and source archive (PEP 517): compiles with CMake and puts the libraries inside.

ENS_BUILD_DIR names a build folder that is configured already. The wheel is for the distribution it was built on: nothing
says that its libraries run on an older one, so that it claims no manylinux tag.
"""
import base64
import hashlib
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What every system with this distribution's Python has.
OUTSIDE = re.compile(r"^(ld-linux.*|lib(c|m|dl|rt|pthread|resolv|util|stdc\+\+|gcc_s)\.so\.\d+)$")
VERSION = re.search(r"^project\(ensembler VERSION ([0-9.]+)", (ROOT / "CMakeLists.txt").read_text(), re.M).group(1)
METADATA = f"""Metadata-Version: 2.1
Name: ensembler
Version: {VERSION}
Summary: Private collaborative inference, and a lab that measures attacks on it
License: Apache-2.0
Requires-Python: >=3.9
Requires-Dist: numpy
"""


def _run(*command):
    subprocess.run([str(c) for c in command], check=True, cwd=ROOT, stdout=sys.stderr)


def _libraries(file):
    """The libraries that `file` loads, with those that they load."""
    found = {}
    for line in subprocess.run(["ldd", file], check=True, capture_output=True, text=True).stdout.splitlines():
        match = re.match(r"\s*(\S+) => (\S+)", line)
        if match and match[2] == "not":
            raise RuntimeError(f"{file}: {match[1]} is not found")
        if match and not OUTSIDE.match(match[1]):
            found[match[1]] = Path(match[2]).resolve()
    return found


def _install(folder):
    build = Path(os.environ.get("ENS_BUILD_DIR") or ROOT / "build/cpu")
    if not os.environ.get("ENS_BUILD_DIR"):
        _run("cmake", "--preset", "cpu", "-DENS_PYTHON=ON", f"-DPython3_EXECUTABLE={sys.executable}")
        _run("cmake", "--build", build, "--target", "ens_python", "--parallel", os.cpu_count())
    _run("cmake", "--install", build, "--component", "python", "--prefix", folder, "--strip")
    package = next(Path(folder).glob("lib/python3/dist-packages/ensembler"))
    native = next(package.glob("_native*.so"))
    libraries = _libraries(native)
    (package / "lib").mkdir()
    for name, source in libraries.items():
        copy = package / "lib" / name
        copy.write_bytes(source.read_bytes())
        copy.chmod(0o755)
        _run("patchelf", "--set-rpath", "$ORIGIN", copy)
    _run("patchelf", "--set-rpath", "$ORIGIN/lib", native)
    return package.parent


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    abi = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    platform = re.sub(r"[^\w]", "_", sysconfig.get_platform())
    info = f"ensembler-{VERSION}.dist-info"
    wheel = f"ensembler-{VERSION}-{abi}-{abi}-{platform}.whl"
    with tempfile.TemporaryDirectory() as folder:
        top = _install(folder)
        files = {str(f.relative_to(top)): f.read_bytes() for f in sorted(top.rglob("*")) if f.is_file()}
    files[f"{info}/METADATA"] = METADATA.encode()
    files[f"{info}/LICENSE"] = (ROOT / "LICENSE").read_bytes()
    files[f"{info}/WHEEL"] = (f"Wheel-Version: 1.0\nGenerator: ensembler\nRoot-Is-Purelib: false\n"
                              f"Tag: {abi}-{abi}-{platform}\n").encode()

    def digest(data):
        return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()

    record = "".join(f"{name},sha256={digest(data)},{len(data)}\n" for name, data in files.items())
    files[f"{info}/RECORD"] = (record + f"{info}/RECORD,,\n").encode()
    with zipfile.ZipFile(Path(wheel_directory) / wheel, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
            entry.external_attr = (0o100755 if ".so" in name else 0o100644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            out.writestr(entry, data)
    return wheel


def build_sdist(sdist_directory, config_settings=None):
    name = f"ensembler-{VERSION}"
    listed = subprocess.run(["git", "ls-files", "-z"], check=True, cwd=ROOT, capture_output=True, text=True).stdout
    with tempfile.TemporaryDirectory() as folder, tarfile.open(Path(sdist_directory) / f"{name}.tar.gz", "w:gz") as out:
        info = Path(folder) / "PKG-INFO"
        info.write_text(METADATA)
        out.add(info, f"{name}/PKG-INFO")
        for file in listed.split("\0"):
            if file and (ROOT / file).exists():
                out.add(ROOT / file, f"{name}/{file}")
    return f"{name}.tar.gz"
