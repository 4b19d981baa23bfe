"""Any foreign file by what it holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ovbench._base.errors import DataError
from ovbench.results.foreign import fidelity, lmms_eval
from ovbench.results.foreign.sheet import ForeignSheet

_KNOWN = "lmms-eval's *_results.json or *_samples_TASK.jsonl, torch-fidelity's JSON or text, lines such as 'FID: 12.3'"


def read_foreign(path: Path) -> ForeignSheet:
    """Returns the scores of a file of lmms-eval, torch-fidelity or clean-fid.

    Raises:
        DataError: The file is missing, damaged, or of no program that is known here.
    """
    if path.suffix == ".jsonl":
        return lmms_eval.read_samples(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"no such file '{path.name}'", where=str(path.parent)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"'{path.name}' cannot be read: {error}", where=str(path)) from error
    if text.lstrip().startswith(("{", "[")):
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"'{path.name}' is damaged: {error}", where=str(path)) from error
        if lmms_eval.is_results(document):
            return lmms_eval.read_results(path, document)
        numbers = document if isinstance(document, Mapping) else {}
    else:
        numbers = fidelity.numbers_of_text(text)
    if (sheet := fidelity.read_scores(path, numbers)) is None:
        raise DataError(f"'{path.name}' holds no score that is known here", where=str(path), fix=f"known: {_KNOWN}")
    return sheet
