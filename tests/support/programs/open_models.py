"""Opens models as somebody does who has transformers and torch and nothing of this program.

    python -P open_models.py [--hide] FOLDER

FOLDER holds a folder for each model and ``ids.json``, rows of token ids. Each model is opened as the class that its
``config.json`` names, its logits go to ``FOLDER/logits.pt``, and the snippets of its card are run. ``--hide`` makes
this program and what it needs besides invisible where they are installed.
"""

import importlib.machinery
import importlib.util
import json
import os
import re
import sys
from pathlib import Path

HIDDEN = ("electra_scale", "data_pipeline", "deepspeed", "datasets", "sklearn", "accelerate")


class Without(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in HIDDEN else super().find_spec(name, path, target)


def main(folder: Path) -> None:
    import torch
    import transformers

    assert not any(importlib.util.find_spec(name) for name in HIDDEN[:4])
    ids, found = torch.tensor(json.loads((folder / "ids.json").read_text())), {}
    for config in sorted(folder.glob("*/config.json")):
        name, kind = config.parent.name, json.loads(config.read_text())["architectures"][0]
        os.chdir(config.parent)
        with torch.no_grad():
            output = getattr(transformers, kind).from_pretrained(".").eval()(input_ids=ids)
        found[name] = (
            torch.stack([output.start_logits, output.end_logits]) if "start_logits" in output else output.logits
        )
        length = transformers.AutoTokenizer.from_pretrained(".").model_max_length
        print(f"{name}: {kind}, model_max_length {length}")
        for block in re.findall(r"^```python\n(.*?)^```", Path("README.md").read_text(), re.MULTILINE | re.DOTALL):
            exec(block, {})
    torch.save(found, folder / "logits.pt")


if __name__ == "__main__":
    if "--hide" in sys.argv:
        finders = sys.meta_path
        sys.meta_path = [Without if finder is importlib.machinery.PathFinder else finder for finder in finders]
    main(Path(sys.argv[-1]).resolve())
