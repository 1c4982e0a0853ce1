"""A process that prepares a folder of volumes into a store, for tests that kill it or run several at once.

    python store_worker.py FOLDER STORE LOG [SECONDS]

It begins when the file `go` lies beside LOG. Every volume that it reads is written into LOG. With SECONDS it stops that
long in the middle of each.
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from data_modules.readers.volume import read_volume
from domainvl.data.volumes.plan import VolumePlan
from domainvl.data.volumes.store import Job, VolumeStore, key_of

PLAN = VolumePlan((10.0, 8.0, 8.0))


def jobs(folder, log=None, seconds=0.0):
    def reading(path):
        def read():
            if log is not None:
                with log.open("a") as file:
                    file.write(f"{path.name} {os.getpid()}\n")
            time.sleep(seconds)
            return read_volume(path)

        return read

    return [Job(key_of([path]), reading(path)) for path in sorted(folder.glob("*.nii.gz"))]


if __name__ == "__main__":
    folder, root, log = map(Path, sys.argv[1:4])
    # Importing takes longer than the work, so those who are to meet wait for each other.
    log.with_name(f"ready-{os.getpid()}").touch()
    while not log.with_name("go").exists():
        time.sleep(0.01)
    VolumeStore(root, PLAN).prepare(jobs(folder, log, float(sys.argv[4]) if len(sys.argv) > 4 else 0.0))
