"""The gateway of a fleet over TLS: the certificate it shows, a changed one, a broken one."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
from pathlib import Path

import pytest

from tests.faults.endpoints import END, PIECE, Fronted, alerted, asked, pid_of, url_of
from tests.faults.test_daemon import ONE, QUICK_ONE, model, until
from vllm_console.errors import ConsoleError

TLS = Path(__file__).with_name("tls")


def test_a_certificate_is_served_and_a_changed_one_taken_up(
    tmp_path: Path, fake_engine: Path
) -> None:
    def use(name: str) -> None:
        for kind in ("cert", "key"):
            shutil.copy(TLS / f"{name}.{kind}", tmp_path / kind)

    def served(url: str) -> str | None:
        """Whose certificate a new connection is shown: of the two there are, or nobody's."""
        host, _, port = url.removeprefix("https://").rpartition(":")
        for name in ("one", "two"):
            trusted = ssl.create_default_context(cafile=TLS / f"{name}.cert")
            try:
                with socket.create_connection((host, int(port)), timeout=10) as plain:
                    trusted.wrap_socket(plain, server_hostname=host).close()
            except ssl.SSLCertVerificationError:
                continue
            return name
        return None

    async def scenario(fleet: Fronted) -> None:
        daemon = await fleet.serving(ONE + QUICK_ONE)
        url, pid = url_of(daemon), pid_of(daemon)
        assert await asyncio.to_thread(served, url) == "one"
        use("two")
        async with asyncio.timeout(20):
            while await asyncio.to_thread(served, url) != "two":  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        assert pid_of(daemon) == pid

    async def played() -> None:
        use("one")
        fleet = Fronted(tmp_path, fake_engine, 'port = 0\ntls_cert = "cert"\ntls_key = "key"\n')
        try:
            await asyncio.wait_for(scenario(fleet), 60)
        finally:
            await fleet.end()

    asyncio.run(played())


def test_a_certificate_that_is_none_is_told_and_costs_no_worker(
    tmp_path: Path, fake_engine: Path
) -> None:
    async def scenario(fleet: Fronted) -> None:
        daemon = await fleet.up(ONE + QUICK_ONE)
        await until(lambda: model(daemon).ready == 1)
        (alert,) = await alerted(daemon)
        assert alert.level == "crit"
        assert "no certificate and key to serve with" in alert.text
        shutil.copy(TLS / "one.cert", tmp_path / "cert")
        shutil.copy(TLS / "one.key", tmp_path / "key")
        await until(lambda: daemon.snapshot().gateway.running)
        assert url_of(daemon).startswith("https://")

    async def played() -> None:
        fleet = Fronted(tmp_path, fake_engine, 'port = 0\ntls_cert = "cert"\ntls_key = "key"\n')
        try:
            await asyncio.wait_for(scenario(fleet), 60)
        finally:
            await fleet.end()

    asyncio.run(played())


def test_a_restart_with_a_broken_certificate_leaves_the_one_that_serves(
    tmp_path: Path, fake_engine: Path
) -> None:
    async def scenario(fleet: Fronted) -> None:
        daemon = await fleet.serving(ONE + QUICK_ONE)
        url, pid = url_of(daemon), pid_of(daemon)
        (tmp_path / "cert").write_text("no certificate")
        fleet.gateway = 'port = 0\ntls_cert = "cert"\ntls_key = "cert"\n'
        fleet.write(ONE + QUICK_ONE)
        await daemon.command("apply", {})
        (alert,) = await alerted(daemon)
        assert alert.level == "warn"
        assert alert.text.endswith(f"pid {pid} serves on as before")
        assert await asked(url) == (200, PIECE * 3 + END)
        with pytest.raises(ConsoleError, match="no certificate and key to serve with"):
            await daemon.command("gateway-restart", {})
        assert pid_of(daemon) == pid
        fleet.gateway = "port = 0\n"
        fleet.write(ONE + QUICK_ONE)
        await daemon.command("apply", {})
        assert await alerted(daemon, 0) == []

    async def played() -> None:
        fleet = Fronted(tmp_path, fake_engine)
        try:
            await asyncio.wait_for(scenario(fleet), 60)
        finally:
            await fleet.end()

    asyncio.run(played())
