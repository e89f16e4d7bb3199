"""Many requests through real agents, each of which must be answered by the agent it went to.

The driver is that of `dynctl bench`, without owners: it neither routes nor retries, so that a load
or a check sees exactly what each agent answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from dynagent.errors import ConnectionLost
from dynctl.load.driver import Answer, Driver
from dynctl.load.wires import Request

OnReply = Callable[[bytes, Answer, float], None]  # the key, the reply or error, seconds it took
SILENCE_S_MAX = 30.0


def drive(
    addresses: Sequence[str],
    requests: Iterator[Request],
    on_reply: OnReply,
    *,
    connections: int = 64,
) -> None:
    """Sends every request to some agent, one at a time per connection, until all are answered.

    An error that an agent answers is a reply like others. Raises `ConnectionError` if an agent goes
    away or silent.
    """

    def on_answer(request: Request, answer: Answer, began: float, now: float) -> None:
        if isinstance(answer, ConnectionLost):
            raise ConnectionError(answer.message)
        on_reply(request[0], answer, now - began)

    with Driver(addresses, connections=connections, timeout_s=SILENCE_S_MAX) as driver:
        driver.connect()
        if driver.absent:
            raise ConnectionError(f"no connection to {', '.join(driver.absent)}")
        driver.run(requests, on_answer)
