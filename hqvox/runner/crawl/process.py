"""The crawling process as the build sees it: started, listened to, and started again if it dies."""

from __future__ import annotations

import threading
import traceback
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from hqvox.config.build import BuildConfig
from hqvox.errors import HqvoxError
from hqvox.runner.crawl.crawler import Crawled, CrawlEvent, CrawlOrder, NotCrawled, crawl
from hqvox.runner.processes import die_with_parent, one_line
from models.errors import ModelError


class CrawlProcess:
    """A crawl in a process of its own.

    One that dies is started again with the shards that it had not finished; what it fetched of
    them is kept. After ``max_deaths`` deaths they are given up.
    """

    def __init__(
        self, context: Any, root: str, config: BuildConfig, order: CrawlOrder, serve: Any = None
    ) -> None:
        """``serve``: what the process runs, :func:`serve_crawl` by default."""
        self._context, self._root, self._config = context, root, config
        self._serve = serve or serve_crawl
        self._left = {task.shard: task for task in order.tasks}
        self._order = order
        self._deaths = 0
        self._over = True
        self._start()

    @property
    def alive(self) -> bool:
        """Whether there is more to hear from it."""
        return not self._over

    def hear(self) -> list[CrawlEvent]:
        """What it says, once :attr:`pipe` is ready. Raises HqvoxError where the build must stop."""
        try:
            kind, value = self.pipe.recv()
        except (EOFError, OSError):
            return self._died()
        if kind == "stop":
            raise HqvoxError(value)
        if kind == "end":
            self.stop()
            return []
        if isinstance(value, Crawled | NotCrawled):
            self._left.pop(value.task.shard, None)
        return [value]

    def stop(self) -> str:
        """End the process; return how it ended."""
        self._over = True
        self.pipe.close()
        self._process.join(timeout=0.5)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()
        code = self._process.exitcode
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"

    def _start(self) -> None:
        order = replace(self._order, tasks=tuple(self._left.values()))
        self.pipe, child = self._context.Pipe()
        self._process = self._context.Process(
            target=self._serve, args=(child, self._root, self._config, order), daemon=True
        )
        self._process.start()
        child.close()
        self._over = False

    def _died(self) -> list[CrawlEvent]:
        code = self.stop()
        self._deaths += 1
        if self._deaths < self._config.runner.max_deaths:
            self._start()
            return []
        line = f"the crawl died {self._deaths} times, the last with {code}"
        return [NotCrawled(task, line, line) for task in self._left.values()]


def serve_crawl(pipe: Connection, root: str, config: BuildConfig, order: CrawlOrder) -> None:
    """The crawling process's life."""
    threading.Thread(target=die_with_parent, daemon=True).start()

    def say(event: CrawlEvent) -> None:
        pipe.send(("event", event))

    try:
        try:
            crawl(root, config, order, say)
        except (HqvoxError, ModelError) as error:
            pipe.send(("stop", str(error)))
        except (ConnectionError, KeyboardInterrupt):
            raise
        except Exception as error:  # a defect of the crawl as a whole
            for task in order.tasks:
                say(NotCrawled(task, one_line(error), traceback.format_exc()))
            pipe.send(("end", None))
        else:
            pipe.send(("end", None))
    except (ConnectionError, KeyboardInterrupt):
        return  # the parent is done, or gone
