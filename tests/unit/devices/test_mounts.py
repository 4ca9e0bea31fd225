"""Whether a path lies on another machine's file system, from tables of mounts."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_console.devices.mounts import remote_filesystem

TABLE = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:40 / /home rw,relatime shared:9 master:2 - nfs4 filer:/export/home rw,vers=4.2
31 30 254:1 / /home/ann/scratch rw - xfs /dev/vdb rw
32 22 0:41 / /mnt/our\\040lab rw - fuse.sshfs lab:/ rw
33 22 0:42 / /srv rw - nfs filer:/srv rw
34 33 254:2 / /srv rw - ext4 /dev/vdc rw
35 22 0:43
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/x", None),
        ("/home", "nfs4"),
        ("/home/ann/.local/state/vllm-console/lab", "nfs4"),
        ("/home/ann/scratch/state", None),
        ("/homestead", None),
        ("/mnt/our lab/state", "fuse.sshfs"),
        ("/srv/state", None),  # what is mounted last hides what lay there
    ],
)
def test_the_innermost_mount_decides(tmp_path: Path, path: str, kind: str | None) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(TABLE)
    assert remote_filesystem(Path(path), table) == kind


def test_without_a_table_nothing_is_said(tmp_path: Path) -> None:
    assert remote_filesystem(tmp_path, tmp_path / "none") is None


def test_the_table_of_this_machine_can_be_read() -> None:
    assert remote_filesystem(Path("/proc")) is None
