"""Where images come from: from the ``sources`` of a configuration to folders and cameras."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from agent.app.jobs import Jobs
from agent.clock import Before, Clock
from agent.config import AgentConfig, CameraConfig, FolderConfig
from agent.health import Health
from agent.inspection import Intake
from agent.ledger import Ledger
from agent.ports import Source
from agent.sources.archive import Archive, Known
from agent.sources.camera.build import grabber_of, store_of
from agent.sources.camera.source import CameraSource
from agent.sources.camera.store import FrameStore, Interesting
from agent.sources.folder import FolderSource


class Origins:
    """The sources of a configuration. ``UsageError``: a camera that this machine cannot speak to."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._cameras = [source for source in config.sources if isinstance(source, CameraConfig)]
        self._grabbers = {one.name: grabber_of(one) for one in self._cameras}

    def stores(self, clock: Clock, health: Health, interesting: Interesting, before: Before) -> dict[str, FrameStore]:
        """Where each camera's frames are saved."""
        results = self._config.results
        return {one.name: store_of(one, results, clock, health, interesting, before) for one in self._cameras}

    def archives(self, clock: Clock, health: Health, known: Known) -> list[Archive]:
        """The archives of folders that have a limit; what is kept for ever needs no housekeeping."""
        floor = self._config.results.min_free_mb
        folders = [one for one in self._config.sources if isinstance(one, FolderConfig) and one.limits_archive]
        return [Archive(one, floor, known, clock, health) for one in folders]

    def sources(
        self,
        stores: Mapping[str, FrameStore],
        ledger: Ledger,
        intake: Intake,
        jobs: Jobs,
        health: Health,
        clock: Clock,
        *,
        simulated: bool,
    ) -> dict[str, Source]:
        """All of them, in the order of the configuration."""

        def made(source: FolderConfig | CameraConfig) -> Source:
            job_at = partial(jobs.at, source.name)
            if isinstance(source, FolderConfig):
                return FolderSource(source, self._config.zone, ledger, health, clock, simulated, job_at)
            grabber, store = self._grabbers[source.name], stores[source.name]
            return CameraSource(source, grabber, store, intake.room, ledger, health, clock, simulated, job_at)

        return {source.name: made(source) for source in self._config.sources}
