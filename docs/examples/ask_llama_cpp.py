"""Ask an exported GGUF file as several people, by llama.cpp: python ask_llama_cpp.py EXPORT GROUP..."""

import json
import sys
from pathlib import Path
from urllib.request import Request, urlopen

from xllamacpp import CommonParams, Server

folder, groups = Path(sys.argv[1]), sys.argv[2:]
presets = json.loads((folder / "presets.json").read_text("utf-8"))
params = CommonParams()
params.model.path = str(folder / "model.gguf")
params.n_ctx, params.verbosity = 2048, -1
server = Server(params)
for group in groups:
    question = {"role": "user", "content": "Any tip for tonight?"}
    body = {"messages": [*presets[group]["messages"], question], "max_tokens": 28, "temperature": 0}
    request = Request(
        f"{server.listening_address}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urlopen(request) as response:
        answer = json.load(response)["choices"][0]["message"]["content"]
    sys.stdout.write(f"{group}: {answer}\n")
