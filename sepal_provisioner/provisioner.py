"""Jupyter's kernel provisioner: a kernel that runs from its shared environment, which is built if it has to be."""

from __future__ import annotations

import asyncio
from typing import Any

from jupyter_client.provisioning import LocalProvisioner
from tornado.web import HTTPError
from traitlets import Instance, default

from .builds import LOOK_EVERY, Build, request_build
from .errors import BuildError, SepalError
from .generation import Generation
from .launch import Launch, prepare, ready_generation
from .settings import Sepal
from .store import Stores


class SepalProvisioner(LocalProvisioner):
    """Starts a catalog's kernel with the interpreter and the environment of its prefix.

    `pre_launch` runs for every start and every restart, and computes both afresh each time: a restart picks up the
    newest ready prefix.
    """

    settings = Instance(Sepal)
    _launch: Launch | None = None

    @default("settings")
    def _settings_default(self) -> Sepal:
        return Sepal(parent=self.parent)

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Find or build the prefix, then let the base class write the connection file. Called by the kernel manager.

        Raises HTTPError with the whole reason: of other exceptions a browser only learns that there was one.
        """
        name = self._kernel_name()
        try:
            generation = await self._generation(name)
            kwargs = await super().pre_launch(**kwargs)
            self._launch = prepare(generation, name, kwargs["env"], self.settings)
        except SepalError as error:
            self.log.error("sepal: %s can't be started: %s", name, error)
            raise HTTPError(500, str(error).replace("%", "%%")) from error
        kwargs["cmd"] = [self._launch.python, *kwargs["cmd"][1:]]
        kwargs["env"] = self._launch.env
        self.log.info("sepal: %s starts from %s", name, generation.path)
        return kwargs

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        """Start the kernel, which inherits the lock on its prefix. Called by the kernel manager after `pre_launch`."""
        launch, self._launch = self._launch, None
        if launch is None:
            return await super().launch_kernel(cmd, **kwargs)
        try:
            if launch.lock >= 0:
                kwargs["pass_fds"] = (*kwargs.get("pass_fds", ()), launch.lock)
            return await super().launch_kernel(cmd, **kwargs)
        finally:
            launch.close()

    def _kernel_name(self) -> str:
        sepal = self.kernel_spec.metadata.get("sepal")
        name = sepal.get("name") if isinstance(sepal, dict) else None
        if not isinstance(name, str):
            raise HTTPError(500, "This kernel spec names the sepal-provisioner, but has no metadata.sepal.name.")
        return name

    async def _generation(self, name: str) -> Generation:
        stores = Stores.of(self.settings.store, self.settings.search_stores)
        if ready := ready_generation(stores, name):
            return ready
        if self._restarting_by_itself():
            raise BuildError(f"The environment of {name} is gone, and an automatic restart never builds one.")
        found = request_build(stores, name, self.settings, remember_failures=True)
        return await self._follow(found) if isinstance(found, Build) else found

    async def _follow(self, build: Build) -> Generation:
        """Wait without holding the event loop; the server's log tells each phase."""
        self.log.info("sepal: building %s; log: %s", build.kernel.name, build.log)
        phase = None
        while (generation := build.step()) is None:
            progress = build.progress
            if progress is not None and progress.phase is not phase:
                phase = progress.phase
                self.log.info("sepal: %s: %s", build.kernel.name, progress.sentence())
            await asyncio.sleep(LOOK_EVERY)
        return generation

    def _restarting_by_itself(self) -> bool:
        """Whether jupyter_client's restarter, not a person, asks for this start."""
        return bool(getattr(getattr(self.parent, "_restarter", None), "_restarting", False))
