"""What lmms-eval finds under its entry point group `lmms_eval.models`: the name `ovbench` and where its class is.

Loads neither torch nor the model class, because lmms-eval asks every plug-in whenever it starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest

MODEL_ID = "ovbench"
CLASS_PATH = "ovbench.harness.understanding.lmms.model.OvbenchLmms"


def manifest() -> ModelManifest:
    """Returns the registration of the model `ovbench`, a "simple" one in lmms-eval's words."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id=MODEL_ID, simple_class_path=CLASS_PATH)
