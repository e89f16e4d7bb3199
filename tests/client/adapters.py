"""One synchronous face for every client, so that one suite can try them all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import trio

from dynagent.client.blocking import Client
from dynagent.client.requests import Receipt, Result
from dynagent.client.trio_client import TrioClient
from dynagent.core.messages import Message
from dynagent.core.ring import Ring


class TrioInThread:
    """A trio client in a trio run of its own, in a thread; its verbs are called from outside."""

    def __init__(self, endpoints: Sequence[str], **options: Any) -> None:
        self._client = TrioClient(endpoints, **options)
        self._is_up = threading.Event()
        self._end = trio.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,))

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with self._client:
            self._is_up.set()
            await self._end.wait()

    def __enter__(self) -> TrioInThread:
        self._thread.start()
        assert self._is_up.wait(30)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._token.run_sync_soon(self._end.set)
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _run(self, verb: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return trio.from_thread.run(partial(verb, *args, **options), trio_token=self._token)

    def get(self, key: bytes, **options: Any) -> Result:
        result: Result = self._run(self._client.get, key, **options)
        return result

    def put(self, key: bytes, value: bytes | None, **options: Any) -> Receipt:
        receipt: Receipt = self._run(self._client.put, key, value, **options)
        return receipt

    def delete(self, key: bytes, **options: Any) -> Receipt:
        receipt: Receipt = self._run(self._client.delete, key, **options)
        return receipt

    def ring(self) -> Ring:
        ring: Ring = self._run(self._client.ring)
        return ring

    def ask(self, address: str, message: Message) -> Message:
        reply: Message = self._run(self._client.ask, address, message)
        return reply


AnyClient = Client | TrioInThread
MAKERS: dict[str, Callable[..., AnyClient]] = {"blocking": Client, "trio": TrioInThread}
