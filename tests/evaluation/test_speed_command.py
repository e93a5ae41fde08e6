"""`heedful benchmark`: what it chooses, writes and refuses."""

from __future__ import annotations

import json

import pytest
from heedful.evaluation import speed_shapes
from heedful.scripts import benchmark as work
from heedful.scripts.cli import app
from speed_shapes import TINY
from typer.testing import CliRunner


@pytest.fixture
def benchmark(tmp_path, monkeypatch):
    """Calls the command on a tiny denoiser in the place of Stable Diffusion 1.5."""
    shapes = {"sd15": TINY, "sdxl": TINY}
    for module in (speed_shapes, work):
        monkeypatch.setattr(module, "SHAPES", shapes)

    def call(*arguments):
        return CliRunner().invoke(app, ["benchmark", "--out", str(tmp_path / "speed"), *arguments])

    return call


def test_it_counts_and_times_and_writes_tables(benchmark, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n{}\nold\n{}\nafter\n".format(*work.MARKS))
    ways = ("--way", "plain", "--way", "guided")
    asked = ("--shape", "sd15", "--steps", "2", "--rounds", "1", "--device", "cpu", "--dtype", "float32")
    done = benchmark(*ways, *asked, "--write", str(page))
    assert done.exit_code == 0, done.output
    values = json.loads((tmp_path / "speed" / "speed.json").read_text())
    assert [(cost["way"], cost["unit"]) for cost in values["costs"]] == [
        ("plain", "operations"),
        ("guided", "operations"),
        ("plain", "seconds"),
        ("guided", "seconds"),
    ]
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "2 steps, 1 of them guided, counted" in text
    assert "timed, sdpa, float32" in text
    assert "left out: no CUDA device" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--shape", "sd3"), '--shape must be one of sd15, sdxl; got "sd3"'),
        (("--way", "guided"), "add --way plain"),
        (("--no-count", "--no-time"), "nothing to measure"),
        (("--way", "plain", "--way", "plain"), '--way "plain" is given twice'),
        (("--batch", "4", "--batch", "4"), '--batch "4" is given twice'),
        (("--write", "none.md"), "cannot write into none.md: No such file"),
        (("--attention", "flash"), '--attention must be one of sdpa, xformers; got "flash"'),
        (("--device", "cpu", "--compile"), "are for CUDA"),
        (("--dtype", "int8"), "--dtype must be one of"),
        (("--no-time", "--steps", "5"), "even; got 5"),
    ],
)
def test_what_is_asked_wrongly_gets_one_line(benchmark, arguments, message):
    done = benchmark(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_page_without_marks_is_refused_before_anything_is_measured(benchmark, tmp_path, monkeypatch):
    monkeypatch.delattr(work, "carry_out")
    page = tmp_path / "page.md"
    page.write_text("no marks")
    done = benchmark("--no-time", "--write", str(page))
    assert done.exit_code == 2
    assert "must hold the marks <!-- speed figures: begin -->" in done.stderr


def test_a_stopped_run_leaves_what_it_has_measured(benchmark, tmp_path, monkeypatch):
    count = work.count
    asked = []

    def stops(shape, ways, **given):
        asked.append(given["batch"])
        if len(asked) == 2:
            raise KeyboardInterrupt
        return count(shape, ways, **given)

    monkeypatch.setattr(work, "count", stops)
    arguments = ("--no-time", "--shape", "sd15", "--way", "plain", "--steps", "2")
    done = benchmark(*arguments, "--batch", "1", "--batch", "2")
    assert done.exit_code == 130
    assert "stopped; what was measured until then is in" in done.stderr
    values = json.loads((tmp_path / "speed" / "speed.json").read_text())
    assert [cost["way"] for cost in values["costs"]] == ["plain"]
    assert asked == [1, 2]


def test_a_cpu_is_asked_for_little():
    chosen = work.resolve(work.BenchmarkSettings(device="cpu"))
    assert (chosen.dtype, chosen.timed_batches, chosen.attention, chosen.compiling) == (
        "bfloat16",
        (1,),
        ("sdpa",),
        False,
    )
    assert (chosen.counted, chosen.timed) == (("sd15", "sdxl"), ("sd15",))
    told = " ".join(work.left_out(chosen))
    for part in ("sdxl is not timed", "sdxl: diffusers, diffusers-refined: ", "heeded is counted, not timed"):
        assert part in told
    assert [str(kernel) for kernel in chosen.kernels] == ["sdpa"]


def test_a_gpu_is_asked_for_all_kernels():
    settings = work.BenchmarkSettings(device="cuda", attention=("sdpa", "xformers"), compiling=True)
    assert [str(kernel) for kernel in settings.kernels] == [
        "sdpa",
        "sdpa, compiled",
        "xformers",
        "xformers, compiled",
    ]
    assert settings.on_cuda
