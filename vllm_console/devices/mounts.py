"""Which file system a path lies on, and whether that is another machine's, by /proc."""

from __future__ import annotations

import re
from pathlib import Path

_REMOTE = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "beegfs", "gpfs"),
    *("ocfs2", "gfs2", "fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone"),
}
_ESCAPED = re.compile(r"\\([0-7]{3})")


def remote_filesystem(path: Path, table: Path = Path("/proc/self/mountinfo")) -> str | None:
    """The type of the file system below a path where other machines have it too, as "nfs4".

    `None` for a local one, and where that cannot be told. Format: proc_pid_mountinfo(5).
    """
    try:
        lines = table.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    below, found = -1, ""
    there = path.absolute()
    for line in lines:
        mount, _, source = line.partition(" - ")
        fields = mount.split(" ")
        if len(fields) < 5 or not source:
            continue
        point = Path(_ESCAPED.sub(lambda match: chr(int(match[1], 8)), fields[4]))
        if there.is_relative_to(point) and len(point.parts) >= below:  # the last one covers others
            below, found = len(point.parts), source.split(" ")[0]
    return found if found in _REMOTE else None
