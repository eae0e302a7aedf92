"""CPU quotas: an upper bound that holds however busy the machine is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from holmes.errors import ConfigError
from holmes.lab.lab import Isolation, Lab
from holmes.lab.quota import PERIOD_US, Hierarchy, Quotas
from tests.lab.hosts import Program, site

pytestmark = pytest.mark.lab
CORES = 0.2


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def spun(pid: int) -> float:
    """Processor share of a process over a while."""
    begin, used = time.perf_counter(), cpu_seconds(pid)
    time.sleep(1.0)
    return (cpu_seconds(pid) - used) / (time.perf_counter() - begin)


def test_a_quota_holds_can_change_and_comes_off() -> None:
    quotas = Quotas()
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        if not (quotas.limit("busy", CORES) and quotas.join("busy", busy.pid)):
            pytest.skip(quotas.reason)
        time.sleep(0.1)
        assert spun(busy.pid) < 1.5 * CORES
        assert quotas.limit("busy", CORES / 2)
        time.sleep(0.1)
        assert spun(busy.pid) < 1.5 * CORES / 2
        assert not quotas.limit("gone", 0.5) or quotas.join("gone", 2**22 + 1) is False
        assert quotas.reason
    finally:
        quotas.close()
        busy.kill()
        busy.wait()


def test_processes_of_a_host_share_its_quota() -> None:
    with Lab.up(site(), quotas={0: CORES}, isolation=Isolation.LOOPBACK) as lab:
        if lab.quota_reason:
            pytest.skip(lab.quota_reason)

        def spin() -> str:
            while True:
                pass

        programs = [Program(lab, 0, spin) for _ in range(2)]
        try:
            time.sleep(0.1)
            begin = time.perf_counter()
            used = sum(cpu_seconds(program.pid) for program in programs)
            time.sleep(1.0)
            used = sum(cpu_seconds(program.pid) for program in programs) - used
            assert used / (time.perf_counter() - begin) < 1.5 * CORES
        finally:
            for program in programs:
                os.kill(program.pid, signal.SIGKILL)
                os.waitpid(program.pid, 0)


@pytest.mark.parametrize("first_version", [True, False])
def test_the_files_of_both_versions(tmp_path: Path, first_version: bool) -> None:
    hierarchy = Hierarchy(tmp_path, first_version)
    for cores, quota, period in ((0.5, 5_000, PERIOD_US), (2.0, 20_000, PERIOD_US)):
        hierarchy.set_quota(tmp_path, cores)
        if first_version:
            assert (tmp_path / "cpu.cfs_quota_us").read_text() == str(quota)
            assert (tmp_path / "cpu.cfs_period_us").read_text() == str(period)
        else:
            assert (tmp_path / "cpu.max").read_text() == f"{quota} {period}"
    hierarchy.set_quota(tmp_path, 0.01)
    text = (tmp_path / ("cpu.cfs_quota_us" if first_version else "cpu.max")).read_text()
    assert int(text.split()[0]) >= 1_000, "the kernel refuses less"


@pytest.mark.parametrize("cores", [0.0, -1.0, float("nan"), float("inf")])
def test_senseless_quotas_are_refused(cores: float) -> None:
    with pytest.raises(ConfigError, match="not possible"):
        Quotas().limit("x", cores)
