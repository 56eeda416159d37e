"""Waiting for a Vespa to take up a deployment: one deadline, a line while it waits, and a report.

The seconds of `--wait` are shared by all stages: the config server that must answer first, and the
services that must run what was activated.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from clipsearch.deployment.config_server import ConfigServer, Convergence, Service, health
from clipsearch.engines.vespa.http.connection import ConnectionSettings, PoolTransport
from finetune.errors import EngineError, IndexAccessError, IndexVersionError

POLL_SECONDS = 0.5
# A line comes when what is waited for changes, but not more often than the first, and again after
# the second where it stays.
CHANGED_LINE_SECONDS = 2.0
SAME_LINE_SECONDS = 10.0
# A question may outlast the deadline by so much, rather than not be asked.
SHORTEST_QUESTION_SECONDS = 1.0
LONGEST_QUESTION_SECONDS = 30.0
HEALTH_SECONDS = 2.0
_HEALTHS_AT_ONCE = 16

Attempt = Callable[[float], str | None]


class Waiting:
    """What is left of the seconds that may be waited, over all stages of a deployment."""

    def __init__(self, seconds: float, say: Callable[[str], None]) -> None:
        """`say` is told in lines what is waited for."""
        self.seconds = seconds
        self.left = seconds
        self._say = say

    def until(self, attempt: Attempt, what: str, most: float | None = None) -> str | None:
        """Call `attempt` until it returns None; its last reason where time is up before.

        It is given the seconds that it may take, and called at least once. Waits for `most`
        seconds at most, and never for more than are left. `what` is waited for.
        """
        start = time.monotonic()
        deadline = start + (self.left if most is None else min(most, self.left))
        told, told_at = "", start
        with self.counted():
            while True:
                remaining = deadline - time.monotonic()
                reason = attempt(
                    min(max(remaining, SHORTEST_QUESTION_SECONDS), LONGEST_QUESTION_SECONDS)
                )
                now = time.monotonic()
                if reason is None or now >= deadline:
                    return reason
                pause = CHANGED_LINE_SECONDS if reason != told else SAME_LINE_SECONDS
                if now - told_at >= pause:
                    waited = self.seconds - self.left + now - start
                    said = f"waiting for {what} ({waited:.0f} of {self.seconds:g} s)"
                    self._say(f"{said}: {short(reason, what)}")
                    told, told_at = reason, now
                time.sleep(min(POLL_SECONDS, deadline - now))

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Take the time of what is done within from what is left."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.left = max(0.0, self.left - (time.monotonic() - start))

    def tell(self, line: str) -> None:
        """Say a line."""
        self._say(line)


class Services:
    """What a config server says of the services, asked again and again."""

    def __init__(self, server: ConfigServer | None) -> None:
        """None where no config server can be asked."""
        self._server = server
        self._last: Convergence | None = None
        self._unknown: str | None = "no config server was asked"
        self._answered: set[tuple[str, str, int]] = set()
        self._stops: dict[tuple[str, str, int], int] = {}

    def behind(self, seconds: float) -> str | None:
        """Return which services do not run what was activated last.

        None where all do, or nobody knows.
        """
        if self._server is None:
            return None
        try:
            self._last = self._server.convergence(seconds)
            self._unknown = None
        except EngineError as error:
            self._unknown = str(error)
            return None
        for service in self._last.services:
            key = _key(service)
            if service.generation >= 0:
                self._answered.add(key)
            elif key in self._answered:
                self._answered.discard(key)
                self._stops[key] = self._stops.get(key, 0) + 1
        if self._last.converged:
            return None
        behind = self._last.behind()
        named = ", ".join(str(one) for one in behind[:3])
        more = f" and {len(behind) - 3} more" if len(behind) > 3 else ""
        return f"what was activated does not run yet on {named or 'every service'}{more}"

    def report(self) -> list[str]:
        """Return a line for each service: what it runs by the config server, and its health."""
        if self._last is None:
            return [f"of the services nothing is known: {self._unknown}"]

        def line(service: Service) -> str:
            where = f"[{service.host}]" if ":" in service.host else service.host
            url = f"http://{where}:{service.port}"
            transport = PoolTransport(url, ConnectionSettings())
            healthy = health(transport, HEALTH_SECONDS) or "up"
            transport.close()
            return f"{service}: {self._state(service)}; its health: {healthy}"

        with ThreadPoolExecutor(_HEALTHS_AT_ONCE) as pool:
            lines = list(pool.map(line, self._last.services))
        if self._unknown is not None:
            lines.append(f"that was before the config server said no more: {self._unknown}")
        return lines or ["the config server names no services"]

    def _state(self, service: Service) -> str:
        assert self._last is not None
        wanted = self._last.wanted
        stops = self._stops.get(_key(service), 0)
        often = f", and stopped {stops} times meanwhile: it restarts in a loop" if stops > 1 else ""
        if service.generation >= wanted:
            return f"runs what was activated{often}"
        if service.generation >= 0:
            return f"runs generation {service.generation}, not {wanted}, which was activated{often}"
        never = "" if stops else ", and did not once"
        return f"does not answer the config server{often or never}"


def wait_for_services(
    attempt: Callable[[float], None], services: Services, index: str, waiting: Waiting
) -> None:
    """Wait until all services run what was activated, and `attempt` at the index succeeds.

    `attempt` is given seconds and raises EngineError where the index is not ready; after the last
    moment it is made once more, whatever services are behind. Raises EngineError with all that is
    known of each service.
    """

    def ready(seconds: float) -> str | None:
        reason = services.behind(seconds)
        return reason if reason is not None else _failure(attempt, seconds)

    reason = waiting.until(ready, index)
    if reason is None:
        return
    failure = _failure(attempt, SHORTEST_QUESTION_SECONDS)
    if failure is None:
        waiting.tell(f"{index} answers, but after {waiting.seconds:g} seconds {reason}:")
        for line in services.report():
            waiting.tell(f"  {line}")
        return
    lines = "".join(f"\n  {line}" for line in services.report())
    raise EngineError(
        f"{index} was not ready in {waiting.seconds:g} seconds ({short(failure, index)}); what was"
        f" deployed stays: when it is up, run the same command with --index {index} as its only"
        f" place. Of its services:{lines}\nWhy one does not start stands in its machine's log,"
        f" /opt/vespa/logs/vespa/vespa.log"
    )


def _failure(attempt: Callable[[float], None], seconds: float) -> str | None:
    try:
        attempt(seconds)
    except (IndexAccessError, IndexVersionError):
        raise  # no waiting mends these
    except EngineError as error:
        return str(error)
    return None


def short(reason: str, what: str = "") -> str:
    """Return a failure without its question and the `what` that it begins with.

    Both were said before.
    """
    return reason.removeprefix(f"{what}: ").partition("; is Vespa running there")[0]


def _key(service: Service) -> tuple[str, str, int]:
    return service.type, service.host, service.port
