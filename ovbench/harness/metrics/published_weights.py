"""A published weights file on this machine: where it is looked for, and its digest. Nothing is fetched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ovbench._base.errors import DataError
from ovbench._base.fingerprint import file_sha256
from ovbench._base.paths import cache_dir


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedWeights:
    """A file that a network's scores depend on."""

    network: str  # e.g. `the FID network`
    names: tuple[str, ...]  # under which it is published; the first is the one that is advised
    sha256_prefix: str  # which its names carry
    url: str  # folder that holds it
    option: str  # of the command that names a file
    else_note: str  # what another file would be

    def find(self, path: str | Path | None = None) -> Path:
        """Returns the file that was named, else one in ovbench's cache or in torch hub's folder.

        Raises:
            DataError: There is none.
        """
        if path is not None:
            return Path(path).expanduser()
        folders = (cache_dir() / "weights", Path(torch.hub.get_dir()) / "checkpoints")
        for folder in folders:
            for name in self.names:
                if (folder / name).is_file():
                    return folder / name
        raise DataError(
            f"the weights of {self.network} are not on this machine: '{self.names[0]}' "
            f"(sha256 begins with {self.sha256_prefix})",
            where=" or ".join(str(folder) for folder in folders),
            fix=f"get {self.url}{self.names[0]} and put it into {folders[0]}, or name the file: {self.option} PATH",
        )

    def check(self, path: Path) -> str:
        """Returns the sha256 of a file.

        Raises:
            DataError: It is absent, or another than the published one.
        """
        if not path.is_file():
            raise DataError(f"no such file '{path.name}'", where=str(path.parent), fix=f"name the file {self.names[0]}")
        digest = file_sha256(path)
        if not digest.startswith(self.sha256_prefix):
            raise DataError(
                f"'{path.name}' is not {self.network}: sha256 {digest[:12]}…, expected {self.sha256_prefix}…",
                where=str(path),
                fix=f"get {self.url}{self.names[0]}; {self.else_note}",
            )
        return digest
