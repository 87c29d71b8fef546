"""Jupyter's kernel provisioner: a kernel that runs from its shared environment, or waits for it."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from jupyter_client.provisioning import LocalProvisioner
from tornado.web import HTTPError
from traitlets import Instance, default

from . import metrics
from .errors import SepalError
from .launch import Launch, prepare, ready_generation
from .order import VARIABLE, Order
from .ports import Ports
from .settings import Sepal
from .store import Stores

_PORTS = ("shell_port", "iopub_port", "stdin_port", "hb_port", "control_port")


class SepalProvisioner(LocalProvisioner):
    """Starts a catalog's kernel with the interpreter and the environment of its prefix.

    `pre_launch` runs for every start and every restart, and computes both afresh each time: a restart picks up the
    newest ready prefix. It never waits for a build: where there is no prefix, a kernel is started that does.
    """

    settings = Instance(Sepal)
    _launch: Launch | None = None
    _ports: Ports | None = None
    _was_dead = False  # whether the kernel that is being replaced had ended by itself

    @default("settings")
    def _settings_default(self) -> Sepal:
        return Sepal(parent=self.parent)

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Let the base class write the connection file, then decide what is started. Called by the kernel manager.

        Raises HTTPError with the whole reason: of other exceptions a browser only learns that there was one.
        """
        name = self._kernel_name()
        stores = Stores.of(self.settings.store, self.settings.search_stores)
        try:
            generation = ready_generation(stores, name)
            self._keep_ports()
            kwargs = await super().pre_launch(**kwargs)
            if generation is None:
                return self._wait(name, kwargs)
            self._launch = prepare(generation, name, kwargs["env"], self.settings)
        except SepalError as error:
            self.log.error("sepal: %s can't be started: %s", name, error)
            raise HTTPError(500, str(error).replace("%", "%%")) from error
        kwargs["cmd"] = [self._launch.python, *kwargs["cmd"][1:]]
        kwargs["env"] = self._launch.env
        metrics.launched("ready")
        self.log.info("sepal: %s starts from %s", name, generation.path)
        return kwargs

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        """Start the kernel, which inherits the lock on its prefix. Called by the kernel manager after `pre_launch`."""
        self._was_dead = False
        launch, self._launch = self._launch, None
        if launch is None:
            return await super().launch_kernel(cmd, **kwargs)
        try:
            if launch.lock >= 0:
                kwargs["pass_fds"] = (*kwargs.get("pass_fds", ()), launch.lock)
            return await super().launch_kernel(cmd, **kwargs)
        finally:
            launch.close()

    async def kill(self, restart: bool = False) -> None:
        """Look whether there is anything left to kill. Called by the kernel manager for an end without delay: a person
        may want that of a living kernel, jupyter_client's restarter asks for it when the kernel is dead."""
        self._was_dead = self.process is not None and self.process.poll() is not None
        await super().kill(restart=restart)

    async def cleanup(self, restart: bool = False) -> None:
        """Give the kernel's ports back once it does not start again. Called by the kernel manager after its end."""
        await super().cleanup(restart=restart)
        if self._ports is not None and not restart:
            self._ports.close()
            self._ports = None

    def _keep_ports(self) -> None:
        """Choose the kernel's ports, and keep them free until it has bound them. The base class only looks which ones
        are free: where forty people start kernels at once, two servers choose the same."""
        manager = self.parent
        if manager is None or manager.transport != "tcp" or not manager.cache_ports or self.ports_cached:
            return
        with contextlib.suppress(OSError):  # the base class chooses
            self._ports = Ports.keep(manager.ip, len(_PORTS))
            for name, port in zip(_PORTS, self._ports.numbers, strict=True):
                setattr(manager, name, port)
            self.ports_cached = True

    def _wait(self, name: str, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Start the waiting kernel in the real one's place: it builds, shows how far that is, and hands over."""
        order = Order(name, self.kernel_spec.display_name, self.settings, may_build=not self._was_dead)
        arguments = kwargs["cmd"][kwargs["cmd"].index("-f") :]
        kwargs["cmd"] = [sys.executable, "-m", "sepal_provisioner.waiting", *arguments]
        kwargs["env"] = {**kwargs["env"], VARIABLE: order.to_variable()}
        metrics.launched("waiting")
        self.log.info("sepal: %s waits for its environment; `jupyter sepal status %s` tells more", name, name)
        return kwargs

    def _kernel_name(self) -> str:
        sepal = self.kernel_spec.metadata.get("sepal")
        name = sepal.get("name") if isinstance(sepal, dict) else None
        if not isinstance(name, str):
            raise HTTPError(500, "This kernel spec names the sepal-provisioner, but has no metadata.sepal.name.")
        return name
