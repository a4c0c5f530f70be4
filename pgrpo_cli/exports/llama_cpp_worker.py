"""Loads a GGUF file with llama.cpp and reads given answers: a process of its own, since C++ ends by abort().

It is started by llama_cpp.py with a job as JSON on standard input, and writes its result to the file that the
job names: llama.cpp prints to both streams.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from typing import Any

_SILENT = -1
_FORCED = 1000.0
_SECONDS = 600.0
_AT_ONCE = 8
"""Tokens that it answers at once: those behind one that the run would not give are in vain."""
_FEW, _ALL = 64, 1_000_000


def _server(job: dict[str, Any], key: str) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = job["model"]
    params.n_ctx, params.n_parallel = job["context"], 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = len(os.sched_getaffinity(0))
    params.warmup, params.verbosity, params.ui = False, _SILENT, False
    # Its port is open to every process of this machine while it works.
    params.api_keys = [key]
    if job["lora"] is not None:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(job["lora"], 1.0)]
    return xllamacpp.Server(params)


class _Client:
    def __init__(self, server: Any, key: str) -> None:
        # It lives as long as somebody has it.
        self._server = server
        import httpx2

        self._http = httpx2.Client(
            base_url=server.listening_address,
            headers={"Authorization": f"Bearer {key}"},
            timeout=_SECONDS,
            trust_env=False,
        )

    def __call__(self, path: str, **body: Any) -> Any:
        answer = self._http.post(path, json=body)
        if answer.status_code >= 400:
            raise RuntimeError(f"{path}: {answer.text[:300]}")
        return answer.json()

    def chat_tokens(self, messages: list[dict[str, str]]) -> tuple[str, list[int]]:
        """A conversation as its chat endpoint sees it."""
        text = self("/apply-template", messages=messages)["prompt"]
        return text, self("/tokenize", content=text, add_special=True, parse_special=True)["tokens"]

    def read(self, prompt: list[int], answer: list[int], stop: int) -> dict[str, list[Any]]:
        """The log-probability of each token of the answer, and the likeliest token at its place.

        It answers by itself as long as that is the same. At other places, and where it does not report all of
        its tokens (it leaves out those that end within a character), it is asked for that place alone.
        """
        logprobs: list[float] = []
        likeliest: list[int] = []
        while (place := len(logprobs)) < len(answer):
            for token in self._own(prompt + answer[:place], min(len(answer) - place, _AT_ONCE)):
                if token["id"] != answer[len(logprobs)]:
                    break
                logprobs.append(token["logprob"])
                likeliest.append(token["id"])
            if (place := len(logprobs)) < len(answer):
                value, best = self._at(prompt + answer[:place], answer[place], stop)
                logprobs.append(value)
                likeliest.append(best)
        return {"logprobs": logprobs, "likeliest": likeliest}

    def _own(self, ids: list[int], most: int) -> list[dict[str, Any]]:
        """The tokens that it answers with itself; none unless it reports all of them."""
        found = self._completion(ids, most, probabilities=1, bias=[])
        tokens: list[dict[str, Any]] = found.get("completion_probabilities", [])
        return tokens if len(tokens) == found["tokens_predicted"] else []

    def _at(self, ids: list[int], token: int, stop: int) -> tuple[float, int]:
        """The log-probability of a token behind these, and the likeliest token.

        What it answers is a stop token, which it always reports; neither that nor how it is forced to changes
        the log-probabilities.
        """
        for most in (_FEW, _ALL):
            found = self._completion(ids, 1, probabilities=most, bias=[[stop, _FORCED]])
            best = found["completion_probabilities"][0]["top_logprobs"]
            for each in best:
                if each["id"] == token:
                    return each["logprob"], best[0]["id"]
        raise RuntimeError(f"it has no log-probability of token {token}")

    def _completion(self, ids: list[int], most: int, *, probabilities: int, bias: list[Any]) -> Any:
        return self(
            "/completion",
            prompt=ids,
            n_predict=most,
            n_probs=probabilities,
            logit_bias=bias,
            temperature=0.0,
            repeat_penalty=1.0,
            samplers=["temperature"],
            cache_prompt=True,
        )


def main() -> None:
    """One job."""
    job = json.load(sys.stdin)
    key = secrets.token_hex()
    client = _Client(_server(job, key), key)
    result = {
        "chats": [client.chat_tokens(messages) for messages in job["chats"]],
        "reads": [client.read(prompt, answer, job["stop"]) for prompt, answer in job["answers"]],
    }
    with open(job["result"], "w", encoding="utf-8") as file:
        json.dump(result, file)
    sys.stdout.flush()
    # The server's threads are not waited for.
    os._exit(0)


if __name__ == "__main__":
    main()
