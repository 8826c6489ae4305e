"""A completions server of the OpenAI protocol on loopback, answering with a transformers engine.

Prompts are token ids, as the engine under test sends them. It can be told to refuse, to wait and to forget
how to echo, and remembers what it was asked.
"""

import json
import math
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from si_dagster.engines.base import Prompt, SamplingParams


class CompletionsServer:
    def __init__(self, checkpoint, engine, port: int = 0) -> None:
        self.checkpoint, self.engine = checkpoint, engine
        self.reset()
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.answer(200, {"data": [server.entry()]}, {})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.asked.append((time.monotonic(), dict(self.headers), body))
                with server.under_way():
                    if server.is_gone:  # a connection that is kept alive ends without an answer
                        self.close_connection = True
                    elif server.refusals:
                        self.answer(*server.refusals.pop(0))
                    elif server.always_refuses(body):
                        self.answer(*server.refusal)
                    elif seconds := server.too_early():
                        headers = {"Retry-After": str(math.ceil(1000 * seconds) / 1000)}
                        self.answer(429, {"error": {"message": "slow down"}}, headers)
                    else:
                        self.answer(200, server.completions(body), server.headers)

            def answer(self, status: int, content: Any, headers: dict[str, str]) -> None:
                payload = json.dumps(content).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(payload))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Http(ThreadingHTTPServer):
            request_queue_size = 64  # of 5, where more connect at once, some wait for a second

        self._http = Http(("127.0.0.1", port), Handler)
        self.port, self.is_gone = self._http.server_port, False
        self.base_url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def reset(self) -> None:
        self.asked: list[tuple[float, dict, dict]] = []
        self.refusals: list[tuple[int, Any, dict]] = []
        self.headers: dict[str, str] = {}
        self.root, self.echoes, self.delay = str(self.checkpoint), True, 0.0
        self.usage: dict | None = None
        self.busy = self.busiest = 0
        self.refusal: tuple[int, Any, dict] = (200, None, {})
        self.refused_prompt: list[int] | None = None  # `None`: all
        self.every, self._free_at = 0.0, 0.0

    def always_refuses(self, body: dict) -> bool:
        return self.refusal[0] != 200 and self.refused_prompt in (None, body["prompt"])

    def too_early(self) -> float:
        """Seconds until a request is let through, of which there is one in `every` seconds."""
        with self._lock:
            now = time.monotonic()
            if now < self._free_at:
                return self._free_at - now
            self._free_at = now + self.every
            return 0.0

    def entry(self) -> dict:
        return {"id": "policy", "root": self.root, "owned_by": "tests"}

    @contextmanager
    def under_way(self):
        with self._lock:
            self.busy += 1
            self.busiest = max(self.busiest, self.busy)
        time.sleep(self.delay)
        yield
        with self._lock:
            self.busy -= 1

    def completions(self, body: dict) -> dict:
        with self._lock:
            choices = self.echoed(body["prompt"]) if body.get("echo") else self.drawn(body)
        numbered = [{"index": index, **choice} for index, choice in enumerate(choices)]
        return {"choices": numbered, "usage": self.usage}

    def drawn(self, body: dict) -> list[dict]:
        sampling = SamplingParams(
            n=body["n"],
            temperature=body["temperature"],
            top_p=body["top_p"],
            top_k=body.get("top_k", -1),
            max_tokens=body["max_tokens"],
            stop=tuple(body.get("stop", ())),
        )
        prompt = Prompt(str(body["seed"]), self.engine._tokenizer.decode(body["prompt"]))
        return [
            {
                "text": one.text,
                "finish_reason": one.finish_reason,
                "logprobs": {"token_logprobs": [one.logprob, *[0.0] * (one.num_tokens - 1)]},
            }
            for one in self.engine.generate([prompt], sampling)[0]
        ]

    def echoed(self, prompts: list[list[int]]) -> list[dict]:
        choices = []
        for ids in prompts:
            with torch.inference_mode():
                table = self.engine._model(torch.tensor([ids])).logits[0].log_softmax(-1)
            logprobs = [None, *(float(table[i, token]) for i, token in enumerate(ids[1:]))]
            choices.append({"text": "", "logprobs": {"token_logprobs": logprobs} if self.echoes else None})
        return choices

    def __enter__(self) -> "CompletionsServer":
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.is_gone = True
        self._http.shutdown()
        self._http.server_close()
