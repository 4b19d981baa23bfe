"""Writes `_assets/MANIFEST.json`: the sha256 and size of every embedded file, keeping the notes on how each was made.

python scripts/refresh_manifest.py                       # after a file changed
python scripts/refresh_manifest.py FILE --note key=value # also records how FILE was made
"""

from __future__ import annotations

import argparse

from ovbench._base.files import read_json, write_json
from ovbench._base.fingerprint import file_sha256
from ovbench._base.paths import ASSETS

MANIFEST = ASSETS / "MANIFEST.json"


def main() -> None:
    """Rebuilds the manifest from the files that are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", help="path inside the assets folder")
    parser.add_argument("--note", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    known = read_json(MANIFEST)["files"] if MANIFEST.is_file() else {}
    files: dict[str, dict[str, object]] = {}
    for path in sorted(ASSETS.rglob("*")):
        name = path.relative_to(ASSETS).as_posix()
        if not path.is_file() or path == MANIFEST or path.name.startswith(".") or path.suffix == ".py":
            continue
        notes = {key: value for key, value in known.get(name, {}).items() if key not in ("sha256", "size_bytes")}
        if name == arguments.file:
            notes.update(dict(note.split("=", 1) for note in arguments.note))
        files[name] = {**notes, "sha256": file_sha256(path), "size_bytes": path.stat().st_size}
    write_json(MANIFEST, {"files": files, "schema": 1})


if __name__ == "__main__":
    main()
