"""The installed ``pyvmm`` command: this checkout, not editable, in a virtual environment of its own."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from common import ROOT, SkippedError

from pyvmm.images import cache

#: What a wheel is made of.
_PARTS = ("pyvmm", "firmware", "scripts/pyvmm", "pyproject.toml", "README.md", "LICENSE")


def environment(progress: Callable[[str], None]) -> Path:
    """The directory of the environment, made again when the checkout has changed. Raises SkippedError."""
    place = cache.directory() / "bench-venv"
    place.parent.mkdir(parents=True, exist_ok=True)
    with cache.locked(place):
        stamp, want = place / "stamp", _fingerprint()
        if not (stamp.exists() and stamp.read_text() == want):
            progress(f"installing pyvmm into {place}")
            stamp.unlink(missing_ok=True)
            fresh = not (place / "bin" / "pip").exists()
            if fresh:
                _call([sys.executable, "-m", "venv", "--clear", str(place)])
            pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--compile"]
            pip.append("--disable-pip-version-check")
            _call([*pip, str(ROOT)])
            if not fresh:  # the version has not changed, so pip would keep what is there
                _call([*pip, "--force-reinstall", "--no-deps", str(ROOT)])
            stamp.write_text(want)
    return place


def _fingerprint() -> str:
    digest = hashlib.sha256(sys.version.encode())
    for part in _PARTS:
        path = ROOT / part
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            if "__pycache__" not in file.parts:
                digest.update(f"{file.relative_to(ROOT)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().split("\n")
        raise SkippedError(f"pyvmm could not be installed: {lines[-1]}")
