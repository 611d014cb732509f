"""Prints the folders of this Python's packages that hold CUDA's libraries (NVRTC, cuBLASLt), joined by colons."""

import pathlib
import sysconfig

site = pathlib.Path(sysconfig.get_paths()["purelib"])
found = {path.parent for name in ("libnvrtc.so*", "libcublasLt.so*") for path in site.glob(f"nvidia/**/{name}")}
print(":".join(sorted(map(str, found))))
