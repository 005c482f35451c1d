"""Write a tiny Llama with random weights, a byte tokenizer and a chat template: `python bench/tiny_model.py FOLDER`.

For trying servers without downloading anything; needs torch, safetensors and a GPU.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def main() -> None:
    folder = Path(sys.argv[1])
    sys.path.insert(0, str(Path(__file__).parents[1] / "probes"))
    from probelib import tiny  # noqa: PLC0415  # type: ignore[import-not-found,unused-ignore]

    tiny.write(str(folder), seed=1)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": TEMPLATE}))
    print(folder)


if __name__ == "__main__":
    main()
